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
        self._select_one = sa.select(*operation_columns(table)).where(
            of_branch, table.c.number == sa.bindparam("number_")
        )
        self._select_last_image = (
            sa.select(table.c.image)
            .where(of_branch, table.c.resource == sa.bindparam("resource_"))
            .order_by(table.c.number.desc())
            .limit(1)
        )
        self._select_bytes = sa.select(table.c.bytes_so_far).where(of_branch, table.c.number == sa.bindparam("number_"))
        self._insert = sa.insert(table)
        self._delete = sa.delete(table).where(of_branch)

    def of(self, connection: sa.Connection, transaction_id: str) -> list[Operation]:
        """All of a branch, in the order of their numbers."""
        rows = connection.execute(self._select, {"id_": transaction_id}).mappings()
        return [operation for row in rows for operation in joined_operations(transaction_id, row)]

    def find(self, connection: sa.Connection, transaction_id: str, number: int) -> Operation | None:
        row = connection.execute(self._select_one, {"id_": transaction_id, "number_": number}).mappings().one_or_none()
        return None if row is None else Operation(transaction_id, *(row[name] for name in _COLUMNS))

    def last_image(self, connection: sa.Connection, transaction_id: str, resource: str) -> bytes | None:
        """What the transaction's last operation makes of a resource that it has a pending change of; None deletes
        it.
        """
        of_resource = {"id_": transaction_id, "resource_": resource}
        image: bytes | None = connection.execute(self._select_last_image, of_resource).scalar_one()
        return image

    def bytes_up_to(self, connection: sa.Connection, transaction_id: str, number: int) -> int:
        """What the images and replies of the first operations of a branch take."""
        row = connection.execute(self._select_bytes, {"id_": transaction_id, "number_": number}).one_or_none()
        return 0 if row is None else int(row.bytes_so_far)

    def add(self, connection: sa.Connection, operation: Operation, bytes_so_far: int) -> None:
        connection.execute(self._insert, {**asdict(operation), "bytes_so_far": bytes_so_far})

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
