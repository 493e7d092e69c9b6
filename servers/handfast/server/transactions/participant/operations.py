"""The operations that transactions have staged, in their table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from handfast.server.transactions.core.model import Operation

_COLUMNS = ("number", "resource", "fingerprint", "image", "reply")


class Operations:
    def __init__(self, table: sa.Table) -> None:
        of_branch = table.c.transaction_id == sa.bindparam("id_")
        self._select = sa.select(*operation_columns(table)).where(of_branch).order_by(table.c.number)
        self._insert = sa.insert(table)
        self._delete = sa.delete(table).where(of_branch)

    def of(self, connection: sa.Connection, transaction_id: str) -> list[Operation]:
        """All of a branch, in the order of their numbers."""
        rows = connection.execute(self._select, {"id_": transaction_id}).mappings()
        return [operation for row in rows for operation in joined_operations(transaction_id, row)]

    def add(self, connection: sa.Connection, operation: Operation) -> None:
        connection.execute(self._insert, asdict(operation))

    def forget(self, connection: sa.Connection, transaction_id: str) -> None:
        connection.execute(self._delete, {"id_": transaction_id})


def operation_columns(table: sa.Table) -> tuple[sa.Column[Any], ...]:
    """What `joined_operations` reads, of the table of operations."""
    return tuple(table.c[name] for name in _COLUMNS)


def joined_operations(transaction_id: str | None, row: sa.RowMapping) -> tuple[Operation, ...]:
    """The operation that a row of an outer join has, if any."""
    if transaction_id is None or row["number"] is None:
        return ()
    return (Operation(transaction_id, *(row[name] for name in _COLUMNS)),)
