"""The horizon of one database: the transaction id below which it has pruned what it knew (rule 10).

Ids are UUIDv7, so they sort by when their transactions began. The horizon only ever advances, in the very local
transaction that prunes, and right behind the newest id that this deletes. It starts at the empty string, which is below
every id.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

LENGTH = 36


def define(metadata: sa.MetaData) -> sa.Table:
    return sa.Table("horizon", metadata, sa.Column("transaction_id", sa.String(LENGTH), primary_key=True))


def create_table() -> None:
    """The migration step that creates it, with its one row."""
    from alembic import op

    table = op.create_table("horizon", sa.Column("transaction_id", sa.String(LENGTH), primary_key=True))
    op.bulk_insert(table, [{"transaction_id": ""}])


class Horizon:
    """The SQL. `locked` and `held` keep their lock until the local transaction ends."""

    def __init__(self, table: sa.Table) -> None:
        self._select = sa.select(table.c.transaction_id)
        self._hold = self._select.with_for_update(read=True)
        self._lock = self._select.with_for_update()
        self._update = sa.update(table)

    def seen(self, connection: sa.Connection) -> str:
        return str(connection.execute(self._select).scalar_one())

    def held(self, connection: sa.Connection) -> str:
        """Nobody advances it meanwhile."""
        return str(connection.execute(self._hold).scalar_one())

    def locked(self, connection: sa.Connection) -> str:
        """For who is about to advance it."""
        return str(connection.execute(self._lock).scalar_one())

    def advance(self, connection: sa.Connection, transaction_id: str) -> None:
        connection.execute(self._update, {"transaction_id": transaction_id})


def id_after(transaction_id: str) -> str:
    """The next id in their order."""
    return str(UUID(int=UUID(transaction_id).int + 1))


def id_at(microseconds: int) -> str:
    """The smallest transaction id that could have been minted then (RFC 9562: 48 bits of milliseconds come first)."""
    milliseconds = microseconds // 1000
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7000-8000-000000000000"
