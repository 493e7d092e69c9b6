"""The claims in their table: who holds each unique value, and which transaction is about to change that (rule 8).

What a transaction makes of a value is noted operation by operation, since a decision may name only the first of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database, execute_each
from handfast.server.transactions.core.model import ClaimChange


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A unique value as one statement read it: who holds it, the transaction that has a pending change of that, and
    what its operations make of it.
    """

    holder: str | None
    pending_transaction_id: str | None
    changes: tuple[ClaimChange, ...]


class UniqueKeys:
    def __init__(self, database: Database, table: sa.Table, changes: sa.Table) -> None:
        is_value = table.c.value == sa.bindparam("value_")
        pending = table.c.pending_transaction_id
        of_pending = sa.and_(changes.c.transaction_id == pending, changes.c.value == table.c.value)
        self._select = (
            sa.select(table.c.holder, pending, changes.c.number, changes.c.holder.label("next_holder"))
            .select_from(table.outerjoin(changes, of_pending))
            .where(is_value)
        )
        self._insert = database.insert_new(table)
        self._lock = sa.select(table.c.holder, pending).where(is_value).with_for_update()
        self._update = sa.update(table).where(is_value)
        self._delete = sa.delete(table).where(is_value)
        self._delete_free = self._delete.where(table.c.holder.is_(None))

        of_transaction = changes.c.transaction_id == sa.bindparam("id_")
        self._insert_change = sa.insert(changes)
        self._select_changes = sa.select(changes.c.number, changes.c.value, changes.c.holder).where(of_transaction)
        self._select_last = (
            sa.select(changes.c.holder)
            .where(of_transaction, changes.c.value == sa.bindparam("value_"))
            .order_by(changes.c.number.desc())
            .limit(1)
        )
        self._delete_changes = sa.delete(changes).where(of_transaction)

    def find(self, connection: sa.Connection, value: str) -> UniqueKey:
        rows = connection.execute(self._select, {"value_": value}).all()
        if not rows:
            return UniqueKey(None, None, ())
        changes = tuple(ClaimChange(row.number, value, row.next_holder) for row in rows if row.number is not None)
        return UniqueKey(rows[0].holder, rows[0].pending_transaction_id, changes)

    def lock(self, connection: sa.Connection, value: str) -> tuple[str | None, str | None]:
        """Who holds a unique value, and the transaction that has a pending change of that; locked until the local
        transaction ends.
        """
        row = None
        while row is None:  # another transaction may free the value between the two
            connection.execute(self._insert, {"value": value})
            row = connection.execute(self._lock, {"value_": value}).one_or_none()
        return row.holder, row.pending_transaction_id

    def change(self, connection: sa.Connection, transaction_id: str, change: ClaimChange) -> None:
        """Notes what a transaction is about to make of a value that is locked."""
        connection.execute(self._update, {"value_": change.value, "pending_transaction_id": transaction_id})
        values = {"number": change.number, "value": change.value, "holder": change.holder}
        connection.execute(self._insert_change, {"transaction_id": transaction_id, **values})

    def holder_within(self, connection: sa.Connection, transaction_id: str, value: str) -> str | None:
        """Who holds a value, in the eyes of the transaction that has a pending change of that."""
        of_value = {"id_": transaction_id, "value_": value}
        holder: str | None = connection.execute(self._select_last, of_value).scalar_one()
        return holder

    def changes(self, connection: sa.Connection, transaction_id: str) -> list[ClaimChange]:
        """What all operations of a transaction make of unique values."""
        rows = connection.execute(self._select_changes, {"id_": transaction_id})
        return [ClaimChange(row.number, row.value, row.holder) for row in rows]

    def save(self, connection: sa.Connection, holders: Mapping[str, str | None]) -> None:
        """Gives each value to its holder, without a pending change; frees it where that is None."""
        held = [
            {"value_": value, "holder": holder, "pending_transaction_id": None}
            for value, holder in sorted(holders.items())
            if holder is not None
        ]
        execute_each(connection, self._update, held)
        freed = [{"value_": value} for value, holder in sorted(holders.items()) if holder is None]
        execute_each(connection, self._delete, freed)

    def unmark(self, connection: sa.Connection, values: Iterable[str]) -> None:
        """Leaves values to who holds them: the pending change is dropped."""
        dropped = sorted(values)
        unmarked = [{"value_": value, "pending_transaction_id": None} for value in dropped]
        execute_each(connection, self._update, unmarked)
        execute_each(connection, self._delete_free, [{"value_": value} for value in dropped])

    def forget_changes(self, connection: sa.Connection, transaction_id: str) -> None:
        connection.execute(self._delete_changes, {"id_": transaction_id})
