"""The operations that transactions have staged, in their table: what each changes and locks, part by part."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.distribution import Reason, across_keys
from handfast.server.chassis.data.statements import Statement
from handfast.server.transactions.core.model import Operation, Part, ResourceName

CHANGE_COLUMNS = ("number", "image")
"""What a pending change is, where its resource is known."""


class Operations:
    def __init__(self, database: Database, table: sa.Table) -> None:
        id_ = table.c.transaction_id
        is_branch, one_of_them = id_ == sa.bindparam("id_"), database.one_of(id_, "ids")
        is_first = sa.and_(is_branch, table.c.number == sa.bindparam("number_"), table.c.part == 1)
        is_resource = sa.and_(table.c.kind == sa.bindparam("kind_"), table.c.resource == sa.bindparam("resource_"))
        self._find = Statement(database, sa.select(table.c.fingerprint, table.c.reply, table.c.reads).where(is_first))
        parts = sa.select(id_, table.c.number, table.c.kind, table.c.resource, table.c.image, table.c.is_lock)
        self._parts = Statement(database, parts.where(one_of_them).order_by(id_, table.c.number))
        changed = is_branch, is_resource, sa.not_(table.c.is_lock)
        last = sa.select(table.c.image).where(*changed).order_by(table.c.number.desc()).limit(1)
        self._last_image = Statement(database, last)
        holders = sa.select(id_).where(is_resource, table.c.is_lock).order_by(id_)
        self._lock_holders = Statement(database, across_keys(Reason.LOCK_HOLDERS, holders))
        self._size = Statement(database, sa.select(table.c.parts_so_far, table.c.bytes_so_far).where(is_first))
        size = sa.func.max(table.c.parts_so_far).label("parts"), sa.func.max(table.c.bytes_so_far).label("bytes")
        self._sizes = Statement(database, sa.select(id_, *size).where(one_of_them).group_by(id_))
        self._insert = Statement(database, sa.insert(table))
        self._delete = Statement(database, sa.delete(table).where(one_of_them))

    def find(self, connection: sa.Connection, transaction_id: str, number: int) -> Operation | None:
        row = self._find.first(connection, id_=transaction_id, number_=number)
        return None if row is None else Operation(transaction_id, number, row.fingerprint, row.reply, row.reads or b"")

    def parts_of(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> dict[str, list[Part]]:
        """All parts of the operations of these transactions, in the order of their numbers. A transaction that has none
        is left out.
        """
        found: dict[str, list[Part]] = {}
        for id_, number, kind, resource, image, is_lock in self._parts.all(connection, ids=transaction_ids):
            name = ResourceName(kind, resource) if kind else None
            found.setdefault(id_, []).append(Part(number, name, image, is_lock))
        return found

    def sizes(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """How many parts the operations of each transaction have, and how many bytes they take, without reading
        them.
        """
        return {row[0]: (row[1], row[2]) for row in self._sizes.all(connection, ids=transaction_ids)}

    def size_up_to(self, connection: sa.Connection, transaction_id: str, number: int) -> tuple[int, int]:
        """How many parts the first operations of a branch have, and how many bytes these take."""
        row = self._size.first(connection, id_=transaction_id, number_=number)
        return (0, 0) if row is None else (row.parts_so_far, row.bytes_so_far)

    def last_image(self, connection: sa.Connection, transaction_id: str, resource: ResourceName) -> bytes | None:
        """What the transaction's last operation makes of a resource that it has a pending change of; None deletes
        it.
        """
        found = self._last_image.all(connection, id_=transaction_id, kind_=resource.kind, resource_=resource.key)
        image: bytes | None = found[0].image
        return image

    def lock_holders(self, connection: sa.Connection, resource: ResourceName) -> list[str]:
        """The transactions that hold a read lock of a resource. Its row must be locked, or there may be others by
        now.
        """
        found = self._lock_holders.all(connection, kind_=resource.kind, resource_=resource.key)
        return [row.transaction_id for row in found]

    def add(
        self,
        connection: sa.Connection,
        operation: Operation,
        parts: Sequence[Part],
        parts_so_far: int,
        bytes_so_far: int,
    ) -> None:
        """`parts` are those of the operation; the sizes are those of the branch with it."""
        rows = []
        for count, part in enumerate(parts, 1):
            kind, key = part.resource or ("", "")
            rows.append(
                {
                    "transaction_id": operation.transaction_id,
                    "number": operation.number,
                    "part": count,
                    "kind": kind,
                    "resource": key,
                    "is_lock": part.is_lock,
                    "image": part.after_image,
                }
            )
        first, *others = rows
        self._insert.send(
            connection,
            **first,
            fingerprint=operation.fingerprint,
            reply=operation.reply,
            reads=operation.reads or None,
            parts_so_far=parts_so_far,
            bytes_so_far=bytes_so_far,
        )
        self._insert.send_each(connection, others)

    def forget(self, connection: sa.Connection, transaction_ids: Sequence[str]) -> None:
        self._delete.send(connection, ids=transaction_ids)
