"""How the columns of a table and the fields of a message map, where a service does not say so itself.

A column has the values of the field of the same name:

    string, bool, bytes, numbers, enums (as numbers)   as they are
    Timestamp, Duration                                microseconds, in a BigInteger
    other messages, repeated fields, maps              JSON, as protobuf has it, in a JSON column

A field that can be unset (`optional` ones and messages) is NULL then. A time or a duration may also have a column that
cannot be NULL, in which 0 stands for unset. A value that would not be read as it was written is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from handfast.server.transactions.participant.storable import LIBRARY_COLUMNS, cannot_store, rule_of

_TIMES = {Timestamp.DESCRIPTOR.full_name, Duration.DESCRIPTOR.full_name}


@dataclass(frozen=True, slots=True)
class _Mapped:
    """A column and its field: `read` sets the field of a message by the value, `write` gives the value. `position` is
    that of the column in its table.
    """

    name: str
    position: int
    read: Callable[[Any, Any], None]
    write: Callable[[Any], Any]


class ColumnMapping:
    """For the columns of `table` but those of the library. A message without a field for the `key` has none. Raises
    ValueError where another column has no field, a field no column, or where the column cannot hold what the field can
    be.
    """

    def __init__(self, table: sa.Table, key: str, message_type: type[Message]) -> None:
        descriptor = message_type.DESCRIPTOR
        fields = {field.name: field for field in descriptor.fields}
        ours = LIBRARY_COLUMNS if key in fields else {*LIBRARY_COLUMNS, key}
        columns = {column.name: column for column in table.columns if column.name not in ours}
        if both := sorted(LIBRARY_COLUMNS & fields.keys()):
            raise ValueError(
                f"{table.name}.{both[0]}: {descriptor.full_name} has a field of this name, and the library a column; "
                "rename the field, or map it by `to_message` and `to_columns` of a subclass"
            )
        if odd := sorted(columns.keys() ^ fields.keys()):
            raise ValueError(f"{table.name} and {descriptor.full_name} do not both have {', '.join(odd)}")
        positions = {column.name: position for position, column in enumerate(table.columns)}
        self._mapped = [
            _Mapped(name, positions[name], *_conversions(columns[name], field)) for name, field in fields.items()
        ]
        self._settable = [mapped for mapped in self._mapped if mapped.name != key]
        self._table, self._message_type = table.name, message_type

    def to_message(self, row: Any) -> Any:
        message = self._message_type()
        for mapped in self._mapped:
            value = row[mapped.position]  # as its name can be a word of Python, such as `from`
            if value is not None:
                mapped.read(message, value)
        return message

    def to_columns(self, message: Message) -> Mapping[str, Any]:
        """Raises InvalidValue."""
        values = {}
        for mapped in self._settable:
            try:
                values[mapped.name] = mapped.write(message)
            except Exception as error:  # protobuf has errors of many kinds
                raise cannot_store(f"{self._table}.{mapped.name}", rule_of(error)) from error
        return values


def _conversions(column: sa.Column[Any], field: Any) -> tuple[Callable[[Any, Any], None], Callable[[Any], Any]]:
    """How the field is read from the column, and written to it."""
    name, is_message = field.name, field.message_type is not None
    is_json = field.is_repeated or (is_message and field.message_type.full_name not in _TIMES)
    if is_json != isinstance(column.type, sa.JSON):
        raise ValueError(f"{column} must {'' if is_json else 'not '}be JSON")
    if field.has_presence and not column.nullable and (is_json or not is_message):
        raise ValueError(f"{column} must be nullable, as {field.full_name} can be unset")
    if is_json:
        return _json(field)
    if is_message:
        return _time(name, None if column.nullable else 0)
    return _scalar(name, field.has_presence)


def _scalar(name: str, can_be_unset: bool) -> tuple[Callable[[Any, Any], None], Callable[[Any], Any]]:
    def write(message: Any) -> Any:
        return None if can_be_unset and not message.HasField(name) else getattr(message, name)

    return lambda message, value: setattr(message, name, value), write


def _time(name: str, unset: int | None) -> tuple[Callable[[Any, Any], None], Callable[[Any], Any]]:
    def read(message: Any, value: int) -> None:
        if value != unset:
            getattr(message, name).FromMicroseconds(value)

    def write(message: Any) -> int | None:
        if not message.HasField(name):
            return unset
        time = getattr(message, name)
        microseconds: int = time.ToMicroseconds()
        if time.nanos % 1000:
            raise ValueError("must be whole microseconds")
        if microseconds == unset:
            raise ValueError("must not be 0, which stands for unset")
        type(time)().FromMicroseconds(microseconds)  # which has to be possible when it is read
        return microseconds

    return read, write


def _json(field: Any) -> tuple[Callable[[Any, Any], None], Callable[[Any], Any]]:
    name = field.name
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    empty: Any = None if not field.is_repeated else {} if is_map else []

    def write(message: Any) -> Any:
        alone = type(message)()
        if field.is_repeated:
            getattr(alone, name).MergeFrom(getattr(message, name))
        elif message.HasField(name):
            getattr(alone, name).CopyFrom(getattr(message, name))
        value = json_format.MessageToDict(alone, preserving_proto_field_name=True).get(name, empty)
        if value and json_format.ParseDict({name: value}, type(message)()) == alone:
            return value
        if value == empty and alone == type(message)():
            return value
        raise ValueError("has values that JSON does not keep")

    return lambda message, value: json_format.ParseDict({name: value}, message), write
