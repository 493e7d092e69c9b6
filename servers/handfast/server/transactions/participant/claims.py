"""The claims in their table: who holds each unique value, and which transaction is about to change that (rule 8)."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.transactions.core.model import Operation
from handfast.server.transactions.participant.operations import joined_operations, operation_columns


@dataclass(frozen=True, slots=True)
class Claim:
    """A unique value as one statement read it: who holds it, and the transaction that has a pending change of that,
    with all its operations.
    """

    holder: str | None
    pending_transaction_id: str | None
    operations: tuple[Operation, ...]


class Claims:
    def __init__(self, database: Database, table: sa.Table, operations: sa.Table) -> None:
        is_value = table.c.value == sa.bindparam("value_")
        pending = table.c.pending_transaction_id
        with_operations = table.outerjoin(operations, operations.c.transaction_id == pending)
        columns = operation_columns(operations)
        self._select = sa.select(table.c.holder, pending, *columns).select_from(with_operations).where(is_value)
        self._insert = database.insert_new(table)
        self._lock = sa.select(table.c.holder, pending).where(is_value).with_for_update()
        marked = sa.select(table.c.value, table.c.holder).where(pending == sa.bindparam("id_"))
        self._lock_marked = marked.order_by(table.c.value).with_for_update()
        self._update = sa.update(table).where(is_value)
        self._delete = sa.delete(table).where(is_value)

    def find(self, connection: sa.Connection, value: str) -> Claim:
        rows = connection.execute(self._select, {"value_": value}).mappings().all()
        if not rows:
            return Claim(None, None, ())
        pending = rows[0]["pending_transaction_id"]
        operations = tuple(operation for row in rows for operation in joined_operations(pending, row))
        return Claim(rows[0]["holder"], pending, operations)

    def lock(self, connection: sa.Connection, value: str) -> tuple[str | None, str | None]:
        """Who holds a unique value, and the transaction that has a pending change of that; locked until the local
        transaction ends.
        """
        row = None
        while row is None:  # another transaction may free the value between the two
            connection.execute(self._insert, {"value": value})
            row = connection.execute(self._lock, {"value_": value}).one_or_none()
        return row.holder, row.pending_transaction_id

    def mark(self, connection: sa.Connection, value: str, transaction_id: str) -> None:
        """Says that a transaction has a pending change of who holds the value."""
        connection.execute(self._update, {"value_": value, "pending_transaction_id": transaction_id})

    def lock_marked(self, connection: sa.Connection, transaction_id: str) -> list[tuple[str, str | None]]:
        """The values that a transaction has a pending change of, each with who holds it now; locked."""
        rows = connection.execute(self._lock_marked, {"id_": transaction_id})
        return [(row.value, row.holder) for row in rows]

    def save(self, connection: sa.Connection, value: str, holder: str | None) -> None:
        """Gives a value to its holder, without a pending change; frees it where that is None."""
        if holder is None:
            connection.execute(self._delete, {"value_": value})
        else:
            values = {"value_": value, "holder": holder, "pending_transaction_id": None}
            connection.execute(self._update, values)
