"""What happens in a seed, a line for each event, for a person to follow.

Ids are long, so transactions are T1, T2 …, and request ids R1, R2 …, in the order in which they are made. Times are
seconds from the start, also where the servers store microseconds since the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from handfast.server.transactions.wire import minted_at
from tests.simulation.scheduler import SECOND, START, Scheduler

LEGEND = (
    "T1 is a transaction, R1 a request id, UpdateUser #12 the 12th call. A write leaves a tag where it writes, in a",
    "user's labels or as a preference: w3x5 is the 5th of client-3, w3x5u and w3x5p the two sides of a change of an",
    "account. A line 'now users/u1 is' says what everybody should see from there on. Commits show what they change;",
    "reads are those outside of local transactions.",
)
UNTOLD = frozenset({"etag", "create_time", "update_time", "fingerprint", "reply"})
"""Columns and fields that explain nothing."""
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HORIZON = "-7000-8000-000000000000"


class Transcript:
    """`on` is whether lines are kept. What makes texts for them alone should ask first."""

    def __init__(self, scheduler: Scheduler, *, on: bool) -> None:
        self.on = on
        self.lines: list[str] = []
        self._scheduler = scheduler
        self._names: dict[str, str] = {}

    def name(self, id_: str, name: str) -> None:
        self._names[id_] = name

    def title(self, lines: Iterable[str]) -> None:
        if self.on:
            self.lines.extend(lines)

    def log(self, who: str, text: str) -> None:
        if self.on:
            seconds = (self._scheduler.now - START) / SECOND
            self.lines.append(self.brief(f"{seconds:10.4f} s  {who:<14} {text}"))

    def brief(self, text: str) -> str:
        """With the names of ids."""
        return _ID.sub(lambda found: self._name(found[0]), text)

    def _name(self, id_: str) -> str:
        if id_.endswith(_HORIZON):
            return f"whatever began before {_seconds(minted_at(id_))}"
        return self._names.get(id_, id_)


def in_words(message: Message) -> str:
    """The fields that are set: `user(user_id=u1 labels={w1x1u}) update_mask=labels`."""
    return " ".join(_field(field, value) for field, value in message.ListFields() if field.name not in UNTOLD)


def _field(field: Any, value: Any) -> str:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return f"{field.name}={{{', '.join(sorted(value))}}}"
    values = [value] if isinstance(value, str | bytes | Message) or not hasattr(value, "__len__") else value
    if kind is None or kind in (FieldMask.DESCRIPTOR, Timestamp.DESCRIPTOR):
        return f"{field.name}={','.join(_scalar(field, each) for each in values)}"
    return " ".join(f"{field.name}({in_words(each)})" for each in values)


def _scalar(field: Any, value: Any) -> str:
    if isinstance(value, FieldMask):
        return ",".join(value.paths)
    if isinstance(value, Timestamp):
        return _seconds(value.ToMicroseconds())
    if field.enum_type is not None:
        name: str = field.enum_type.values_by_number[value].name
        return name.removeprefix("TRANSACTION_STATE_").removeprefix("FINISH_RESULT_")
    return str(value)


def changes_of(key: tuple[Any, ...], before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    """What a commit changes of a row, besides its key."""
    if after is None:
        return "deleted"
    changed = {
        name: value
        for name, value in after.items()
        if name not in UNTOLD and (value not in (None, "", 0, {}, *key) if before is None else value != before[name])
    }
    return " ".join(f"{name}={_column(value)}" for name, value in changed.items()) or "as it was"


def parameters_in_words(parameters: Mapping[str, Any]) -> str:
    """Of a statement, each after a space."""
    values = {name.rstrip("_"): value for name, value in parameters.items()}
    return "".join(
        f" {name}={','.join(value) if isinstance(value, list) else value}" for name, value in values.items() if value
    )


def _column(value: Any) -> str:
    match value:
        case dict():
            each = (key if value[key] == "set" else f"{key}: {value[key]}" for key in sorted(value))
            return f"{{{', '.join(each)}}}"
        case int() if value > START // 2:
            return _seconds(value)
        case Message():
            return in_words(value)
    return str(value)


def _seconds(since_epoch: int) -> str:
    return f"{(since_epoch - START) / SECOND:.3f}s"
