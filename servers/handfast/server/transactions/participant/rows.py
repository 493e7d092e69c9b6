"""The rows of resources in their table, each with its pending change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database, execute_each
from handfast.server.transactions.core.model import Operation
from handfast.server.transactions.participant.operations import joined_operations, operation_columns
from handfast.server.transactions.participant.resources import M, ResourceType


@dataclass(frozen=True, slots=True)
class Row(Generic[M]):
    """A resource as one statement read it: its committed state (None where it does not exist), and the operations of
    the transaction that has a pending change of it.
    """

    key: str
    committed: M | None
    last_transaction_id: str
    pending_transaction_id: str | None
    operations: tuple[Operation, ...]


class ResourceRows(Generic[M]):
    def __init__(self, database: Database, resources: ResourceType[M], operations: sa.Table) -> None:
        self._resources, self._key_name = resources, resources.key.name
        table, key = resources.table, resources.key
        is_key = key == sa.bindparam("key_")

        def with_operations(source: sa.FromClause) -> sa.Select[Any]:
            """Rows of `source`, each with its pending operations: several rows where there are several."""
            pending = sa.and_(
                operations.c.transaction_id == source.c.pending_transaction_id,
                operations.c.resource == source.c[key.name],
            )
            columns = operation_columns(operations)
            return sa.select(source, *columns).select_from(source.outerjoin(operations, pending))

        self._select = with_operations(table).where(is_key)
        self._select_batch = with_operations(table).where(key.in_(sa.bindparam("keys", expanding=True)))
        after = key > sa.bindparam("after")
        page = sa.select(table).where(after).order_by(key).limit(sa.bindparam("limit_")).subquery()
        self._select_page = with_operations(page).order_by(page.c[key.name])
        # Alone: PostgreSQL reads a row again after it waited for its lock, but not what the row was joined with.
        self._lock = sa.select(table).where(is_key).with_for_update()
        self._insert_placeholder = database.insert_new(table)
        self._update = sa.update(table).where(is_key)
        self._delete = sa.delete(table).where(is_key)
        self._delete_placeholder = self._delete.where(sa.not_(table.c.present))

    def find(self, connection: sa.Connection, key: str) -> Row[M] | None:
        return next(iter(self._read(connection.execute(self._select, {"key_": key}))), None)

    def batch(self, connection: sa.Connection, keys: Sequence[str]) -> list[Row[M]]:
        return list(self._read(connection.execute(self._select_batch, {"keys": list(keys)})))

    def page(self, connection: sa.Connection, after: str, limit: int) -> list[Row[M]]:
        """The first `limit` rows whose key is greater than `after`, placeholders included, in the order of their
        keys.
        """
        return list(self._read(connection.execute(self._select_page, {"after": after, "limit_": limit})))

    def lock(self, connection: sa.Connection, key: str) -> Row[M]:
        """The row without its operations, locked until the local transaction ends. Where there is none, a placeholder
        is inserted first: a lock on nothing would hold nobody off.
        """
        row = connection.execute(self._lock, {"key_": key}).mappings().one_or_none()
        while row is None:
            connection.execute(self._insert_placeholder, {self._key_name: key, "present": False})
            row = connection.execute(self._lock, {"key_": key}).mappings().one_or_none()
        return self._row(key, row, ())

    def save(self, connection: sa.Connection, messages: Mapping[str, M | None], *, last_transaction_id: str) -> None:
        """Makes each resource, by its key, what its message says, without a pending change; removes it where that is
        None.
        """
        kept = [
            {
                **self._resources.to_columns(message),
                "key_": key,
                "present": True,
                "pending_transaction_id": None,
                "last_transaction_id": last_transaction_id,
            }
            for key, message in sorted(messages.items())
            if message is not None
        ]
        execute_each(connection, self._update, kept)
        removed = [{"key_": key} for key, message in sorted(messages.items()) if message is None]
        execute_each(connection, self._delete, removed)

    def mark(self, connection: sa.Connection, key: str, transaction_id: str) -> None:
        """Says that a transaction has a pending change of the resource."""
        connection.execute(self._update, {"key_": key, "pending_transaction_id": transaction_id})

    def unmark(self, connection: sa.Connection, keys: Iterable[str]) -> None:
        """Takes the mark off rows whose change is dropped; what was a placeholder only, goes."""
        dropped = sorted(keys)
        execute_each(connection, self._update, [{"key_": key, "pending_transaction_id": None} for key in dropped])
        execute_each(connection, self._delete_placeholder, [{"key_": key} for key in dropped])

    def _read(self, result: sa.CursorResult[Any]) -> Iterable[Row[M]]:
        rows: dict[str, Row[M]] = {}
        for mapping in result.mappings():
            key = mapping[self._key_name]
            operations = joined_operations(mapping["pending_transaction_id"], mapping)
            if key in rows:
                operations = rows[key].operations + operations
            rows[key] = self._row(key, mapping, operations)
        return rows.values()

    def _row(self, key: str, mapping: sa.RowMapping, operations: tuple[Operation, ...]) -> Row[M]:
        committed = self._resources.to_message(mapping) if mapping["present"] else None
        return Row(key, committed, mapping["last_transaction_id"], mapping["pending_transaction_id"], operations)
