"""The definitions in their table. They never change, so some of those that were read are kept in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from handfast.preferences.v1 import preferences_pb2 as pb
from handfast.server.chassis.clock import timestamp
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.requests.paging import read_page
from handfast.server.preferences.errors import DefaultsTooLarge, DefinitionAlreadyExists
from handfast.server.preferences.tables import definitions

MAX_DEFAULTS_BYTES = 1024 * 1024
"""What the defaults of all definitions may take together: every reply with defaults has them all, and what a user has
set besides."""
KEPT_BYTES = 16 * 1024 * 1024
"""What the definitions that are kept in memory may take, as they are on the wire."""

_TYPE_PREFIX = "PREFERENCE_TYPE_"
_DEFAULTS = sa.select(definitions.c.key, definitions.c.default_value).where(definitions.c.default_value.is_not(None))


class Definitions:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, pb.PreferenceDefinition] = {}
        self._known_bytes = 0

    def find(self, keys: Collection[str]) -> dict[str, pb.PreferenceDefinition]:
        """Those of `keys` that are defined."""
        known = self._known
        found = {key: known[key] for key in keys if key in known}
        if unknown := [key for key in keys if key not in found]:
            for definition in self._read(sa.select(definitions).where(definitions.c.key.in_(unknown))):
                found[definition.key] = definition
                self._keep(definition)
        return found

    def defaults(self) -> dict[str, Value]:
        """The default of each definition that has one."""
        with self._database.read() as connection:
            return _defaults(connection)

    def page(self, after: str, limit: int) -> tuple[list[pb.PreferenceDefinition], str]:
        """The `limit` next ones, or as many as fit into a reply; and the key to go on after, empty at the end."""

        def read(after: str, count: int) -> tuple[Iterable[tuple[str, pb.PreferenceDefinition]], bool]:
            query = sa.select(definitions).where(definitions.c.key > after).order_by(definitions.c.key)
            found = self._read(query.limit(count + 1))
            return [(definition.key, definition) for definition in found[:count]], len(found) > count

        return read_page(read, after, limit)

    def add(
        self, connection: sa.Connection, definition: pb.PreferenceDefinition
    ) -> pb.CreatePreferenceDefinitionResponse:
        """Raises DefinitionAlreadyExists, and DefaultsTooLarge."""
        if definition.HasField("default_value") and self._database.dialect == "postgresql":
            # Of two that come at the same time, each would see room for itself.
            connection.exec_driver_sql("LOCK TABLE definitions IN SHARE ROW EXCLUSIVE MODE")
        values = {
            "key": definition.key,
            "type": pb.PreferenceType.Name(definition.type).removeprefix(_TYPE_PREFIX),
            "default_value": [to_json(definition.default_value)] if definition.HasField("default_value") else None,
            "allowed_values": [to_json(value) for value in definition.allowed_values],
            "description": definition.description,
            "create_time": definition.create_time.ToMicroseconds(),
        }
        if connection.execute(self._database.insert_new(definitions), values).rowcount == 0:
            raise DefinitionAlreadyExists(definition.key)
        if definition.HasField("default_value"):
            size = pb.Preferences(defaults=_defaults(connection)).ByteSize()
            if size > MAX_DEFAULTS_BYTES:
                raise DefaultsTooLarge(size, MAX_DEFAULTS_BYTES)
        return pb.CreatePreferenceDefinitionResponse(definition=definition)

    def _read(self, query: sa.Select[Any]) -> list[pb.PreferenceDefinition]:
        with self._database.read() as connection:
            return [_message(row) for row in connection.execute(query).mappings()]

    def _keep(self, definition: pb.PreferenceDefinition) -> None:
        self._known_bytes += definition.ByteSize()
        if self._known_bytes > KEPT_BYTES:  # begin anew: what is needed often is soon there again
            self._known, self._known_bytes = {}, definition.ByteSize()
        self._known[definition.key] = definition


def to_json(value: Value) -> Any:
    return json_format.MessageToDict(value)


def _from_json(value: Any) -> Value:
    return json_format.ParseDict(value, Value())


def _defaults(connection: sa.Connection) -> dict[str, Value]:
    return {row.key: _from_json(row.default_value[0]) for row in connection.execute(_DEFAULTS)}


def _message(row: sa.RowMapping) -> pb.PreferenceDefinition:
    default = row["default_value"]
    return pb.PreferenceDefinition(
        key=row["key"],
        type=pb.PreferenceType.Value(_TYPE_PREFIX + row["type"]),
        default_value=None if default is None else _from_json(default[0]),
        allowed_values=[_from_json(value) for value in row["allowed_values"]],
        description=row["description"],
        create_time=timestamp(row["create_time"]),
    )
