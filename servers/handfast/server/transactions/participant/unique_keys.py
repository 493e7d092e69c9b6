"""The unique values in their table: who holds each, and which transaction is about to change that (rule 8).

What a transaction makes of a value is noted operation by operation, since a decision may commit only the first of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.statements import Statement
from handfast.server.transactions.core.conflicts import blocker
from handfast.server.transactions.core.model import UniqueKey, UniqueKeyChange


class UniqueKeys:
    def __init__(self, database: Database, table: sa.Table, changes: sa.Table) -> None:
        is_value = table.c.value == sa.bindparam("value_")
        pending = table.c.pending_transaction_id
        of_pending = sa.and_(changes.c.transaction_id == pending, changes.c.value == table.c.value)
        with_changes = sa.select(table.c.holder, pending, changes.c.number, changes.c.holder.label("next_holder"))
        joined = table.outerjoin(changes, of_pending)
        self._find = Statement(database, with_changes.select_from(joined).where(is_value))
        self._insert = Statement(database, database.insert_new(table))
        self._lock = Statement(database, sa.select(table.c.holder, pending).where(is_value).with_for_update())
        self._update = Statement(database, sa.update(table).where(is_value))
        delete = sa.delete(table).where(is_value)
        self._delete = Statement(database, delete)
        self._delete_free = Statement(database, delete.where(table.c.holder.is_(None)))

        id_, change = changes.c.transaction_id, (changes.c.number, changes.c.value, changes.c.holder)
        of_value = id_ == sa.bindparam("id_"), changes.c.value == sa.bindparam("value_")
        one_of_them = database.one_of(id_, "ids")
        self._insert_change = Statement(database, sa.insert(changes))
        self._changes_of_value = Statement(database, sa.select(*change).where(*of_value))
        self._changes = Statement(database, sa.select(id_, *change).where(one_of_them))
        self._delete_changes = Statement(database, sa.delete(changes).where(one_of_them))

    def find(self, connection: sa.Connection, value: str) -> UniqueKey:
        rows = self._find.all(connection, value_=value)
        if not rows:
            return UniqueKey(value, None, None, ())
        changes = tuple(UniqueKeyChange(row.number, value, row.next_holder) for row in rows if row.number is not None)
        return UniqueKey(value, rows[0].holder, rows[0].pending_transaction_id, changes)

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
                changes: tuple[UniqueKeyChange, ...] = ()
                if mine is not None and row.pending_transaction_id == mine:
                    found = self._changes_of_value.all(connection, id_=mine, value_=value)
                    changes = tuple(UniqueKeyChange(*each) for each in found)
                return UniqueKey(value, row.holder, row.pending_transaction_id, changes)
            # Another transaction has freed the value between the two.
        return UniqueKey(value, None, None, ())

    def change(
        self, connection: sa.Connection, transaction_id: str, number: int, holders: Mapping[str, str | None]
    ) -> None:
        """Notes what an operation is about to make of values that are locked."""
        self._update.send_each(
            connection, [{"value_": value, "pending_transaction_id": transaction_id} for value in holders]
        )
        self._insert_change.send_each(
            connection,
            [
                {"transaction_id": transaction_id, "number": number, "value": value, "holder": holder}
                for value, holder in holders.items()
            ],
        )

    def changes(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> dict[str, list[UniqueKeyChange]]:
        """What the operations of each transaction make of unique values. One that changes none is left out."""
        found: dict[str, list[UniqueKeyChange]] = {}
        for row in self._changes.all(connection, ids=transaction_ids):
            found.setdefault(row.transaction_id, []).append(UniqueKeyChange(row.number, row.value, row.holder))
        return found

    def save(self, connection: sa.Connection, holders: Mapping[str, str | None]) -> None:
        """Gives each value to its holder, without a pending change; frees it where that is None."""
        held = [
            {"value_": value, "holder": holder, "pending_transaction_id": None}
            for value, holder in sorted(holders.items())
            if holder is not None
        ]
        self._update.send_each(connection, held)
        self._delete.send_each(
            connection, [{"value_": value} for value, holder in sorted(holders.items()) if holder is None]
        )

    def unmark(self, connection: sa.Connection, values: Collection[str]) -> None:
        """Leaves values to who holds them: the pending change is dropped."""
        self._update.send_each(
            connection, [{"value_": each, "pending_transaction_id": None} for each in sorted(values)]
        )
        self._delete_free.send_each(connection, [{"value_": each} for each in sorted(values)])

    def forget_changes(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> None:
        self._delete_changes.send(connection, ids=transaction_ids)
