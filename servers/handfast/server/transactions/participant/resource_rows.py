"""The rows of resources in their table, each with its pending change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.statements import Statement
from handfast.server.transactions.core.model import Operation
from handfast.server.transactions.participant.operations import OPERATION_COLUMNS
from handfast.server.transactions.participant.resource_type import M, ResourceType
from handfast.server.transactions.participant.tables import ParticipantTables


@dataclass(frozen=True, slots=True)
class ResourceRow(Generic[M]):
    """A resource as one statement read it: its committed state (None where it does not exist), and the operations of
    the transaction that has a pending change of it. `horizon` is that of the database at the time, where it was asked
    for.
    """

    key: str
    committed: M | None
    last_transaction_id: str
    pending_transaction_id: str | None
    operations: tuple[Operation, ...] = ()
    horizon: str = ""


class ResourceRows(Generic[M]):
    def __init__(self, database: Database, resources: ResourceType[M], tables: ParticipantTables) -> None:
        self._resources, self._key_name = resources, resources.key.name
        table, key, operations = resources.table, resources.key, tables.operations
        is_key = key == sa.bindparam("key_")

        def with_operations(source: sa.FromClause) -> sa.Select[Any]:
            """Rows of `source`, each with its pending operations: several rows where there are several."""
            pending = sa.and_(
                operations.c.transaction_id == source.c.pending_transaction_id,
                operations.c.resource == source.c[key.name],
            )
            columns = [operations.c[name] for name in OPERATION_COLUMNS]
            return sa.select(source, *columns).select_from(source.outerjoin(operations, pending))

        page = (
            sa.select(table).where(key > sa.bindparam("after")).order_by(key).limit(sa.bindparam("limit_")).subquery()
        )
        self._find = Statement(database, with_operations(table).where(is_key))
        self._batch = Statement(database, with_operations(table).where(database.one_of(key, "keys")))
        self._page = Statement(database, with_operations(page).order_by(page.c[key.name]))
        # Alone: PostgreSQL reads a row again after it waited for its lock, but not what the row was joined with.
        lock = sa.select(table).where(is_key).with_for_update(of=table)
        self._lock = Statement(database, lock)
        horizon = sa.select(tables.horizon.c.transaction_id).scalar_subquery().label("horizon")
        self._lock_with_horizon = Statement(database, lock.add_columns(horizon))
        self._insert_placeholder = Statement(database, database.insert_new(table))
        self._update = Statement(database, sa.update(table).where(is_key))
        delete = sa.delete(table).where(is_key)
        self._delete = Statement(database, delete)
        self._delete_placeholder = Statement(database, delete.where(sa.not_(table.c.present)))

    def find(self, connection: sa.Connection, key: str) -> ResourceRow[M] | None:
        rows = self._find.all(connection, key_=key)
        if len(rows) == 1 and rows[0].pending_transaction_id is None:  # as nearly always
            return self._row(rows[0])
        return next(iter(self._with_operations(rows)), None)

    def batch(self, connection: sa.Connection, keys: Sequence[str]) -> list[ResourceRow[M]]:
        return self._with_operations(self._batch.all(connection, keys=list(keys)))

    def page(self, connection: sa.Connection, after: str, limit: int) -> list[ResourceRow[M]]:
        """The first `limit` rows whose key is greater than `after`, placeholders included, in the order of their
        keys.
        """
        return self._with_operations(self._page.all(connection, after=after, limit_=limit))

    def lock(self, connection: sa.Connection, key: str, *, with_horizon: bool = False) -> ResourceRow[M]:
        """The row without its operations, locked until the local transaction ends. Where there is none, a placeholder
        is inserted first: a lock on nothing would keep nobody away. The horizon is as it was when the statement began.
        """
        lock = self._lock_with_horizon if with_horizon else self._lock
        while (row := lock.first(connection, key_=key)) is None:
            self._insert_placeholder.send(connection, **{self._key_name: key, "present": False})
        return self._row(row, horizon=row.horizon if with_horizon else "")

    def save(self, connection: sa.Connection, changes: Iterable[tuple[str, M | None, str]]) -> None:
        """Makes each resource, by its key, what its message says, without a pending change; removes it where that is
        None. The third is the last transaction that was applied to it.
        """
        ordered = sorted(changes, key=lambda change: change[0])
        free = {"present": True, "pending_transaction_id": None}
        kept = [
            {**self._resources.to_columns(message), **free, "key_": key, "last_transaction_id": last_transaction_id}
            for key, message, last_transaction_id in ordered
            if message is not None
        ]
        removed = [{"key_": key} for key, message, _ in ordered if message is None]
        self._update.send_each(connection, kept)
        self._delete.send_each(connection, removed)

    def mark(self, connection: sa.Connection, key: str, transaction_id: str) -> None:
        """Says that a transaction has a pending change of the resource."""
        self._update.send(connection, key_=key, pending_transaction_id=transaction_id)

    def unmark(self, connection: sa.Connection, keys: Collection[str]) -> None:
        """Takes the mark off rows whose change is dropped; what was a placeholder only, goes."""
        dropped = sorted(keys)
        self._update.send_each(connection, [{"key_": key, "pending_transaction_id": None} for key in dropped])
        self._delete_placeholder.send_each(connection, [{"key_": key} for key in dropped])

    def _with_operations(self, joined: Iterable[Any]) -> list[ResourceRow[M]]:
        """One row for each resource, of what an outer join with the operations returned."""
        operations: dict[str, tuple[Operation, ...]] = {}
        rows: dict[str, Any] = {}
        for row in joined:
            key = getattr(row, self._key_name)
            rows.setdefault(key, row)
            columns = row[-len(OPERATION_COLUMNS) :]  # by position: the row may have the same names
            if columns[0] is not None:
                pending = Operation(row.pending_transaction_id, *columns)
                operations[key] = (*operations.get(key, ()), pending)
        return [self._row(row, operations.get(key, ())) for key, row in rows.items()]

    def _row(self, row: Any, operations: tuple[Operation, ...] = (), horizon: str = "") -> ResourceRow[M]:
        committed = self._resources.to_message(row) if row.present else None
        key = getattr(row, self._key_name)
        return ResourceRow(key, committed, row.last_transaction_id, row.pending_transaction_id, operations, horizon)
