"""The operations that transactions have staged, in their table."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.statements import Statement
from handfast.server.transactions.core.model import Operation

OPERATION_COLUMNS = ("number", "resource", "fingerprint", "image", "reply")
"""What an `Operation` is made of after the transaction's id, in its order."""


class Operations:
    def __init__(self, database: Database, table: sa.Table) -> None:
        id_ = table.c.transaction_id
        is_branch, one_of_them = id_ == sa.bindparam("id_"), database.one_of(id_, "ids")
        is_number = table.c.number == sa.bindparam("number_")
        is_resource = table.c.resource == sa.bindparam("resource_")
        last_first = table.c.number.desc()
        columns = [table.c[name] for name in OPERATION_COLUMNS]
        self._find = Statement(database, sa.select(*columns).where(is_branch, is_number))
        self._all = Statement(database, sa.select(id_, *columns).where(one_of_them).order_by(id_, table.c.number))
        last = sa.select(table.c.image).where(is_branch, is_resource).order_by(last_first).limit(1)
        self._last_image = Statement(database, last)
        self._bytes = Statement(database, sa.select(table.c.bytes_so_far).where(is_branch, is_number))
        size = sa.func.max(table.c.number).label("count"), sa.func.max(table.c.bytes_so_far).label("bytes")
        self._sizes = Statement(database, sa.select(id_, *size).where(one_of_them).group_by(id_))
        self._insert = Statement(database, sa.insert(table))
        self._delete = Statement(database, sa.delete(table).where(one_of_them))

    def find(self, connection: sa.Connection, transaction_id: str, number: int) -> Operation | None:
        row = self._find.first(connection, id_=transaction_id, number_=number)
        return None if row is None else Operation(transaction_id, *row)

    def of(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> dict[str, list[Operation]]:
        """All of these transactions, in the order of their numbers. A transaction that has none is left out."""
        found: dict[str, list[Operation]] = {}
        for row in self._all.all(connection, ids=transaction_ids):
            found.setdefault(row[0], []).append(Operation(*row))
        return found

    def sizes(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """How many operations each transaction has, and how many bytes they take, without reading them."""
        return {row[0]: (row[1], row[2]) for row in self._sizes.all(connection, ids=transaction_ids)}

    def last_image(self, connection: sa.Connection, transaction_id: str, resource: str) -> bytes | None:
        """What the transaction's last operation makes of a resource that it has a pending change of; None deletes
        it.
        """
        image: bytes | None = self._last_image.all(connection, id_=transaction_id, resource_=resource)[0].image
        return image

    def bytes_up_to(self, connection: sa.Connection, transaction_id: str, number: int) -> int:
        """How many bytes the after-images and replies of the first operations of a branch take."""
        row = self._bytes.first(connection, id_=transaction_id, number_=number)
        return 0 if row is None else int(row.bytes_so_far)

    def add(self, connection: sa.Connection, operation: Operation, bytes_so_far: int) -> None:
        self._insert.send(
            connection,
            transaction_id=operation.transaction_id,
            number=operation.number,
            resource=operation.resource,
            fingerprint=operation.fingerprint,
            image=operation.after_image,
            reply=operation.reply,
            bytes_so_far=bytes_so_far,
        )

    def forget(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> None:
        self._delete.send(connection, ids=transaction_ids)
