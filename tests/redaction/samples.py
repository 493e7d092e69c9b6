"""Requests full of values that nobody else has, in each field that carries personal data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from handfast.preferences.v1 import preferences_pb2
from handfast.server.chassis.logs.redaction import is_marked
from tests.redaction.contracts import is_entry, is_ours

NOTE, NUMBER, LIST = "redaction_note", "redaction_number", "redaction_list"
"""Preferences that take anything of their type."""
DEFINED = {
    NOTE: preferences_pb2.PREFERENCE_TYPE_STRING,
    NUMBER: preferences_pb2.PREFERENCE_TYPE_NUMBER,
    LIST: preferences_pb2.PREFERENCE_TYPE_STRING_LIST,
}
_ZONES = sorted(zone for zone in (files("tzdata") / "zones").read_text().split() if len(zone) > 10)
_numbers = itertools.count()


@dataclass
class Sample:
    """Makes values. `values` are those that should be found nowhere, and `keys` those of maps, which an error may name
    where it says which field is at fault.
    """

    number: int = field(default_factory=lambda: next(_numbers))
    values: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def word(self) -> str:
        """No part of an id in hexadecimal."""
        return self._value(f"zq{self.number:04}v{len(self.values)}")

    def key(self) -> str:
        self.keys.append(f"zq{self.number:04}k{len(self.keys)}")
        return self.keys[-1]

    def digits(self) -> int:
        return int(self._value(f"73{self.number:04}9{len(self.values):04}"))

    def zone(self) -> str:
        return self._value(_ZONES[self.number % len(_ZONES)])

    def _value(self, text: str) -> str:
        self.values.append(text)
        return text


def _email(sample: Sample) -> str:
    return f"{sample.word()}@example.com"


def _preferences(sample: Sample) -> dict[str, Value]:
    values = {NOTE: Value(string_value=sample.word()), NUMBER: Value(number_value=sample.digits()), LIST: Value()}
    values[LIST].list_value.values.add().string_value = sample.word()
    return values


def _mask(sample: Sample) -> FieldMask:
    return FieldMask(paths=["email", "display_name", "locale", "time_zone", "labels", f"labels.{sample.key()}"])


VALID: dict[str, Callable[[Sample], Any]] = {
    "accounts.v1.UpdateUserAndPreferencesRequest.user_update_mask": _mask,
    "preferences.v1.Preferences.values": _preferences,
    "users.v1.LookupUserRequest.email": _email,
    "users.v1.UpdateUserRequest.update_mask": _mask,
    "users.v1.User.display_name": lambda sample: f"{sample.word()} {sample.word()}ë",
    "users.v1.User.email": _email,
    "users.v1.User.labels": lambda sample: {sample.key(): f"{sample.word()} 'and' \"so\"\\on"},
    "users.v1.User.locale": lambda sample: f"en-x-{sample.word()}",
    "users.v1.User.time_zone": Sample.zone,
}
"""By field, without `handfast.`: what a call with it succeeds."""


def valid(sample: Sample, field: FieldDescriptor) -> Any:
    return VALID[field.full_name.removeprefix("handfast.")](sample)


def invalid(sample: Sample, field: FieldDescriptor) -> Any:
    """What breaks whatever rule there is."""
    long = f"{sample.word()}\n\x07'\"{sample.word()}ë" + 300 * "x"
    if field.message_type is None:
        return long
    if field.message_type.full_name == FieldMask.DESCRIPTOR.full_name:
        return FieldMask(paths=[*_mask(sample).paths, sample.key(), f"labels.{sample.key()} and more"])
    assert is_entry(field.message_type), f"{field.full_name}: what is no rule for this type?"
    if field.message_type.fields_by_name["value"].message_type is None:
        return {sample.key(): long, f"{sample.key()} and more": sample.word()}
    return {sample.key(): Value(string_value=sample.word()), NUMBER: Value(string_value=sample.word())}


def fill(request: Message, make: Callable[[FieldDescriptor], Any] | None, ids: Mapping[str, str]) -> None:
    """Sets all marked fields of `request`, at any depth, to what `make` gives, and those named in `ids`."""
    for message, each in _leaves(request):
        if each.name in ids:
            setattr(message, each.name, ids[each.name])
        elif make is None or not is_marked(each):
            continue
        elif each.message_type is None:
            setattr(message, each.name, make(each))
        elif not is_entry(each.message_type):
            getattr(message, each.name).CopyFrom(make(each))
        else:
            target = getattr(message, each.name)
            for key, value in make(each).items():
                if isinstance(value, Message):
                    target[key].CopyFrom(value)
                else:
                    target[key] = value


def _leaves(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    descriptor: Any = message.DESCRIPTOR  # whose stubs know two classes of descriptors
    for each in descriptor.fields:
        if is_ours(each.message_type):
            yield from _leaves(getattr(message, each.name))
        else:
            yield message, each
