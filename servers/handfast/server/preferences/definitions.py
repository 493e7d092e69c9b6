"""The definitions in their table. They never change, so those that were read once are kept in memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from handfast.preferences.v1.preferences_pb2 import PreferenceDefinition, PreferenceType
from handfast.server.chassis.clock import microseconds, timestamp
from handfast.server.chassis.data.database import Database
from handfast.server.preferences.errors import DefinitionAlreadyExists
from handfast.server.preferences.tables import definitions

_TYPE_PREFIX = "PREFERENCE_TYPE_"


class Definitions:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, PreferenceDefinition] = {}

    def find(self, keys: Collection[str]) -> dict[str, PreferenceDefinition]:
        """Those of `keys` that are defined."""
        unknown = [key for key in keys if key not in self._known]
        if unknown:
            self._read(sa.select(definitions).where(definitions.c.key.in_(unknown)))
        return {key: self._known[key] for key in keys if key in self._known}

    def defaults(self) -> dict[str, Value]:
        """The default of each definition that has one."""
        found = self._read(sa.select(definitions).where(definitions.c.default_value.is_not(None)))
        return {definition.key: definition.default_value for definition in found}

    def page(self, after: str, limit: int) -> tuple[list[PreferenceDefinition], str]:
        """Up to `limit` with greater keys, and the key to go on after; empty at the end."""
        query = sa.select(definitions).where(definitions.c.key > after).order_by(definitions.c.key)
        found = self._read(query.limit(limit + 1))
        return found[:limit], found[limit - 1].key if len(found) > limit else ""

    def add(self, connection: sa.Connection, definition: PreferenceDefinition) -> None:
        """Raises DefinitionAlreadyExists."""
        values = {
            "key": definition.key,
            "type": PreferenceType.Name(definition.type).removeprefix(_TYPE_PREFIX),
            "default_value": [to_json(definition.default_value)] if definition.HasField("default_value") else None,
            "allowed_values": [to_json(value) for value in definition.allowed_values],
            "description": definition.description,
            "create_time": microseconds(definition.create_time),
        }
        if connection.execute(self._database.insert_new(definitions), values).rowcount == 0:
            raise DefinitionAlreadyExists(definition.key)

    def _read(self, query: sa.Select[Any]) -> list[PreferenceDefinition]:
        with self._database.read() as connection:
            found = [_message(row) for row in connection.execute(query).mappings()]
        self._known.update((definition.key, definition) for definition in found)
        return found


def to_json(value: Value) -> Any:
    return json_format.MessageToDict(value)


def from_json(value: Any) -> Value:
    return json_format.ParseDict(value, Value())


def _message(row: sa.RowMapping) -> PreferenceDefinition:
    default = row["default_value"]
    return PreferenceDefinition(
        key=row["key"],
        type=PreferenceType.Value(_TYPE_PREFIX + row["type"]),
        default_value=None if default is None else from_json(default[0]),
        allowed_values=[from_json(value) for value in row["allowed_values"]],
        description=row["description"],
        create_time=timestamp(row["create_time"]),
    )
