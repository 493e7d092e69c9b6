"""Takes personal data out of messages that are stored for repeats of a call only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message

from handfast.server.chassis.logs.redaction import is_marked

M = TypeVar("M", bound=Message)


def without_personal_data(message: M) -> M:
    """A copy of `message` without the fields that contracts mark `[debug_redact = true]`, at any depth, and without
    those that its contract does not know, as these may be marked in a newer one."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.DiscardUnknownFields()
    _clear(copy)
    return copy


def _clear(value: Any) -> None:
    if isinstance(value, Message):
        for field, each in value.ListFields():
            if is_marked(field):
                value.ClearField(field.name)
            elif field.message_type is not None:
                _clear(each)
    else:
        for each in value.values() if isinstance(value, Mapping) else value:
            if isinstance(each, Message):
                _clear(each)
