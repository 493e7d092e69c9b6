"""The unique values in their table: who holds each, and which transaction is about to change that (rule 8).

What a transaction makes of a value is noted operation by operation, since a decision may commit only the first of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.distribution import Reason, across_keys
from handfast.server.chassis.data.statements import Statement
from handfast.server.transactions.core.conflicts import blocker
from handfast.server.transactions.core.model import UniqueKey


class UniqueKeys:
    def __init__(self, database: Database, table: sa.Table, changes: sa.Table) -> None:
        value, pending, changed_by = table.c.value, table.c.pending_transaction_id, changes.c.transaction_id
        is_value = value == sa.bindparam("value_")
        is_change = sa.and_(changed_by == pending, changes.c.value == value)
        columns = (value, table.c.holder, pending, changes.c.number, changes.c.holder.label("next_holder"))
        with_changes = across_keys(Reason.PENDING_CHANGE, sa.select(*columns))
        outer = table.outerjoin(changes, is_change)
        self._find = Statement(database, with_changes.select_from(outer).where(is_value))
        # Not of the outer join, for which SQLite would go through the whole table.
        of_these = with_changes.where(is_change, database.one_of(changed_by, "ids"))
        self._changed_by = Statement(database, of_these)
        self._insert = Statement(database, database.insert_new(table))
        # Alone: PostgreSQL reads a row again after it waited for its lock, but not what the row was joined with.
        self._lock = Statement(database, sa.select(table.c.holder, pending).where(is_value).with_for_update())
        self._update = Statement(database, sa.update(table).where(is_value))
        self._delete = Statement(database, sa.delete(table).where(is_value))
        self._insert_change = Statement(database, sa.insert(changes))
        self._delete_changes = Statement(database, sa.delete(changes).where(database.one_of(changed_by, "ids")))

    def find(self, connection: sa.Connection, value: str) -> UniqueKey:
        """A value with its pending changes, as one statement reads it."""
        found = _with_changes(self._find.all(connection, value_=value))
        return found[0] if found else UniqueKey(value, None, None, {})

    def changed_by(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> list[UniqueKey]:
        """The values that these transactions have pending changes of."""
        return _with_changes(self._changed_by.all(connection, ids=transaction_ids))

    def lock(self, connection: sa.Connection, values: Iterable[str], mine: str | None) -> list[UniqueKey]:
        """These values, locked until the local transaction ends; in one order, or two writes that swap values would be
        in a deadlock. The last is the first of which another transaction than `mine` has a pending change: a write
        cannot go on then, and must not keep what that transaction needs. Only what `mine` makes of a value is read with
        it.
        """
        locked = []
        for value in sorted(values):
            locked.append(self._lock_one(connection, value, mine))
            if blocker(locked[-1].pending_transaction_id, mine) is not None:
                break
        return locked

    def _lock_one(self, connection: sa.Connection, value: str, mine: str | None) -> UniqueKey:
        while self._insert.run(connection, value=value) == 0:
            row = self._lock.first(connection, value_=value)
            if row is not None:
                if mine is not None and row.pending_transaction_id == mine:
                    return _with_changes(self._find.all(connection, value_=value))[0]
                return UniqueKey(value, row.holder, row.pending_transaction_id, {})
            # Another transaction has freed the value between the two.
        return UniqueKey(value, None, None, {})

    def change(
        self, connection: sa.Connection, transaction_id: str, number: int, holders: Mapping[str, str | None]
    ) -> None:
        """Notes what an operation is about to make of values that are locked."""
        for value, holder in holders.items():
            self._update.send(connection, value_=value, pending_transaction_id=transaction_id)
            self._insert_change.send(
                connection, transaction_id=transaction_id, number=number, value=value, holder=holder
            )

    def save(self, connection: sa.Connection, holders: Mapping[str, str | None]) -> None:
        """Gives each value to its holder, without a pending change; frees it where that is None."""
        ordered = sorted(holders.items())
        held = [{"value_": v, "holder": by, "pending_transaction_id": None} for v, by in ordered if by is not None]
        self._update.send_each(connection, held)
        self._delete.send_each(connection, [{"value_": v} for v, by in ordered if by is None])

    def forget_changes(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> None:
        self._delete_changes.send(connection, ids=transaction_ids)


def _with_changes(joined: Iterable[Any]) -> list[UniqueKey]:
    """The values of an outer join with their changes."""
    keys: dict[str, UniqueKey] = {}
    for row in joined:
        key = keys.setdefault(row.value, UniqueKey(row.value, row.holder, row.pending_transaction_id, {}))
        if row.number is not None:
            key.changes[row.number] = row.next_holder
    return list(keys.values())
