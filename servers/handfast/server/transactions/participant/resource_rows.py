"""The rows of one kind of resource in their table, each with its pending change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.distribution import Reason, across_keys
from handfast.server.chassis.data.statements import Statement
from handfast.server.transactions.core.model import NO_REVISION, Part, ResourceName
from handfast.server.transactions.participant.operations import CHANGE_COLUMNS
from handfast.server.transactions.participant.resource_type import M, ResourceType
from handfast.server.transactions.participant.tables import ParticipantTables

LAST_CHARACTER = "\U0010ffff"
"""No text is greater, by the order of keys."""


class ResourceRow(NamedTuple, Generic[M]):
    """A resource as one statement read it: its committed state (None where it does not exist), the last transaction
    that was applied to it, its revision, what the transaction that has a pending change of it makes of it, and how many
    transactions hold a read lock. `horizon` is that of the database at the time, where it was asked for.
    """

    name: ResourceName
    committed: M | None
    last_transaction_id: str
    revision: str
    pending_transaction_id: str | None
    read_locks: int = 0
    changes: tuple[Part, ...] = ()
    horizon: str = ""


class Saved(NamedTuple):
    """What a resource becomes, by the values of its columns; it is removed where these are None."""

    key: str
    columns: Mapping[str, Any] | None
    last_transaction_id: str
    revision: str


class ResourceRows(Generic[M]):
    def __init__(self, database: Database, resources: ResourceType[M], tables: ParticipantTables) -> None:
        self._resources, self._key_name = resources, resources.key.name
        table, key, operations = resources.table, resources.key, tables.operations
        is_key = key == sa.bindparam("key_")

        def with_changes(source: sa.FromClause) -> sa.Select[Any]:
            """Rows of `source`, each with its pending changes: several rows where there are several."""
            pending = sa.and_(
                operations.c.transaction_id == source.c.pending_transaction_id,
                operations.c.kind == resources.kind,
                operations.c.resource == source.c[key.name],
                sa.not_(operations.c.is_lock),
            )
            columns = [operations.c[name] for name in CHANGE_COLUMNS]
            return sa.select(source, *columns).select_from(source.outerjoin(operations, pending))

        def page(first: sa.ColumnElement[bool]) -> sa.Select[Any]:
            """Those from the `first` on that have the prefix."""
            having_prefix = first, key < sa.bindparam("beyond")
            rows = sa.select(table).where(*having_prefix).order_by(key).limit(sa.bindparam("limit_")).subquery()
            return across_keys(Reason.PAGE, with_changes(rows).order_by(rows.c[key.name]))

        find, batch = with_changes(table).where(is_key), with_changes(table).where(database.one_of(key, "keys"))
        self._find = Statement(database, across_keys(Reason.PENDING_CHANGE, find))
        self._batch = Statement(database, across_keys(Reason.PENDING_CHANGE, batch))
        self._page = Statement(database, page(key > sa.bindparam("after")))
        self._first_page = Statement(database, page(key >= sa.bindparam("prefix")))
        # Alone: PostgreSQL reads a row again after it waited for its lock, but not what the row was joined with.
        lock = sa.select(table).with_for_update(of=table)
        self._lock = Statement(database, lock.where(is_key))
        self._lock_known = Statement(database, lock.where(database.one_of(key, "keys")).order_by(key))
        horizon = sa.select(tables.horizon.c.transaction_id).scalar_subquery().label("horizon")
        self._lock_with_horizon = Statement(database, lock.where(is_key).add_columns(horizon))
        self._insert_placeholder = Statement(database, database.insert_new(table))
        update = sa.update(table).where(is_key)
        self._update = Statement(database, update)
        # By what the row has when it is changed, and not by what was read before.
        self._add_read_lock = Statement(database, update.values(read_locks=table.c.read_locks + 1))
        self._end_read_lock = Statement(database, update.values(read_locks=table.c.read_locks - 1))
        delete = sa.delete(table).where(is_key)
        self._delete = Statement(database, delete)
        needless = sa.not_(table.c.present), table.c.pending_transaction_id.is_(None), table.c.read_locks == 0
        self._delete_placeholder = Statement(database, delete.where(*needless))

    def find(self, connection: sa.Connection, key: str) -> ResourceRow[M] | None:
        rows = self._find.all(connection, key_=key)
        if len(rows) == 1 and rows[0].pending_transaction_id is None:  # as nearly always
            return self._row(rows[0])
        return next(iter(self._with_changes(rows)), None)

    def batch(self, connection: sa.Connection, keys: Sequence[str]) -> list[ResourceRow[M]]:
        return self._with_changes(self._batch.all(connection, keys=list(keys)))

    def page(self, connection: sa.Connection, after: str, prefix: str, limit: int) -> list[ResourceRow[M]]:
        """The first `limit` rows whose key is greater than `after` and begins with `prefix`, placeholders included, in
        the order of their keys.
        """
        bounds = {"beyond": prefix + LAST_CHARACTER, "limit_": limit}
        if after < prefix:
            return self._with_changes(self._first_page.all(connection, prefix=prefix, **bounds))
        return self._with_changes(self._page.all(connection, after=after, **bounds))

    def lock(self, connection: sa.Connection, key: str, *, with_horizon: bool = False) -> ResourceRow[M]:
        """The row without its changes, locked until the local transaction ends. Where there is none, a placeholder is
        inserted first: a lock on nothing would keep nobody away. The horizon is as it was when the statement began.
        """
        lock = self._lock_with_horizon if with_horizon else self._lock
        while (row := lock.first(connection, key_=key)) is None:
            self._insert_placeholder.send(connection, **self._resources.placeholder(key))
        return self._row(row, horizon=row[-1] if with_horizon else "")

    def lock_all(self, connection: sa.Connection, keys: Collection[str]) -> dict[str, ResourceRow[M]]:
        """These rows, locked as `lock` does, in the order of their keys; those that are there by one statement."""
        known = self._lock_known.all(connection, keys=sorted(keys))
        locked = {row.name.key: row for row in map(self._row, known)}
        for key in sorted(set(keys) - locked.keys()):
            locked[key] = self.lock(connection, key)
        return locked

    def save(self, connection: sa.Connection, changes: Iterable[Saved]) -> None:
        """Makes each resource what its columns say, without a pending change; removes it where that is None."""
        ordered = sorted(changes, key=lambda change: change.key)
        kept = [
            {
                **change.columns,
                "key_": change.key,
                "present": True,
                "pending_transaction_id": None,
                "last_transaction_id": change.last_transaction_id,
                "revision": change.revision,
            }
            for change in ordered
            if change.columns is not None
        ]
        self._update.send_each(connection, kept)
        self._delete.send_each(connection, [{"key_": change.key} for change in ordered if change.columns is None])

    def mark(self, connection: sa.Connection, keys: Iterable[str], transaction_id: str) -> None:
        """Says that a transaction has a pending change of these resources."""
        self._update.send_each(
            connection, [{"key_": key, "pending_transaction_id": transaction_id} for key in sorted(keys)]
        )

    def unmark(self, connection: sa.Connection, keys: Iterable[str]) -> None:
        """Takes the mark off rows whose change is dropped; what was a placeholder only, goes."""
        dropped = sorted(keys)
        self._update.send_each(connection, [{"key_": key, "pending_transaction_id": None} for key in dropped])
        self.drop_placeholders(connection, dropped)

    def add_read_locks(self, connection: sa.Connection, keys: Iterable[str]) -> None:
        """Says that one more transaction holds a read lock of each of these."""
        self._add_read_lock.send_each(connection, [{"key_": key} for key in sorted(keys)])

    def end_read_locks(self, connection: sa.Connection, keys: Iterable[str]) -> None:
        """Takes back `add_read_locks`; what was a placeholder only, goes. A key may be there several times."""
        ended = sorted(keys)
        self._end_read_lock.send_each(connection, [{"key_": key} for key in ended])
        self.drop_placeholders(connection, ended)

    def drop_placeholders(self, connection: sa.Connection, keys: Iterable[str]) -> None:
        """Removes those of these rows that stand for nothing, and that no transaction needs any more."""
        self._delete_placeholder.send_each(connection, [{"key_": key} for key in sorted(keys)])

    def _with_changes(self, joined: Iterable[Any]) -> list[ResourceRow[M]]:
        """One row for each resource, of what an outer join with the operations returned."""
        changes: dict[str, tuple[Part, ...]] = {}
        rows: dict[str, Any] = {}
        for row in joined:
            key = getattr(row, self._key_name)
            rows.setdefault(key, row)
            number, image = row[-len(CHANGE_COLUMNS) :]  # by position: the row may have the same names
            if number is not None:
                change = Part(number, ResourceName(self._resources.kind, key), image)
                changes[key] = (*changes.get(key, ()), change)
        return [self._row(row, changes.get(key, ())) for key, row in rows.items()]

    def _row(self, row: Any, changes: tuple[Part, ...] = (), horizon: str = "") -> ResourceRow[M]:
        present = row.present
        return ResourceRow(
            ResourceName(self._resources.kind, getattr(row, self._key_name)),
            self._resources.to_message(row) if present else None,
            row.last_transaction_id,
            row.revision if present else NO_REVISION,
            row.pending_transaction_id,
            row.read_locks,
            changes,
            horizon,
        )
