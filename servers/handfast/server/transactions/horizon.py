"""The horizon of one database: the transaction id below which it has pruned what it knew (rule 10).

Ids are UUIDv7, so they sort by when their transactions began. The horizon only ever advances, in the very local
transaction that prunes, and right behind the newest id that this deletes. It starts at the empty string, which is below
every id.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

import sqlalchemy as sa

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.distribution import Reason, across_keys, small
from handfast.server.transactions.core import pruning as rules

LENGTH = 36
FORGOTTEN_AT_ONCE = 10_000
"""So many hold decisions up for some 50 ms. With fewer, a prune has to win the horizon from them so often that it takes
longer, and they wait more in all."""


def define(metadata: sa.MetaData) -> sa.Table:
    return sa.Table("horizon", metadata, sa.Column("transaction_id", sa.String(LENGTH), primary_key=True), info=small())


def create_table() -> None:
    """The migration step that creates it, with its one row."""
    from alembic import op

    table = op.create_table("horizon", sa.Column("transaction_id", sa.String(LENGTH), primary_key=True))
    op.bulk_insert(table, [{"transaction_id": ""}])


class Prunable:
    """What a database forgets by its horizon: branches at a participant, decisions at the coordinator. `id_` is the
    column of a table with the ids of transactions, `finished` the condition of the rows that may be forgotten.
    """

    def __init__(
        self, database: Database, id_: sa.Column[str], finished: sa.ColumnElement[bool], horizon: sa.Table
    ) -> None:
        self.database = database
        unfinished, below = sa.not_(finished), id_ < sa.bindparam("horizon")
        count = sa.select(sa.func.count()).select_from(id_.table).where(unfinished)
        self._count_unfinished = across_keys(Reason.MAINTENANCE, count)
        oldest = sa.select(sa.func.min(id_)).where(unfinished)
        self._oldest_unfinished = across_keys(Reason.MAINTENANCE, oldest)
        oldest_finished = sa.select(id_).where(below, finished).order_by(id_).limit(FORGOTTEN_AT_ONCE).subquery()
        newest = sa.select(sa.func.max(oldest_finished.c[0]))
        self._newest_finished = across_keys(Reason.MAINTENANCE, newest)
        self._delete_finished = across_keys(Reason.MAINTENANCE, sa.delete(id_.table).where(below, finished))
        self._select_horizon = sa.select(horizon.c.transaction_id)
        self._lock_horizon = self._select_horizon.with_for_update()
        self._advance_horizon = sa.update(horizon)

    def count_unfinished(self, connection: sa.Connection) -> int:
        """How many transactions are not finished here."""
        return int(connection.execute(self._count_unfinished).scalar_one())

    def oldest_unfinished(self, connection: sa.Connection) -> str | None:
        """The oldest transaction that is not finished here; None where there is none."""
        oldest: str | None = connection.execute(self._oldest_unfinished).scalar_one()
        return oldest

    def horizon(self, connection: sa.Connection) -> str:
        return str(connection.execute(self._select_horizon).scalar_one())

    def prune(self, wanted: str, going_on: Callable[[], bool] = lambda: True) -> int:
        """Forgets what is finished below the id `wanted`, as far as rule 10 lets it, and advances the horizon right
        behind that: some at a time, as decisions wait for the horizon. Ends early where `going_on` says so. Returns how
        many transactions were forgotten.
        """
        total = 0
        forgotten = FORGOTTEN_AT_ONCE
        while forgotten >= FORGOTTEN_AT_ONCE and going_on():
            forgotten = self.database.write(partial(self._prune, wanted))
            total += forgotten
        return total

    def _prune(self, wanted: str, connection: sa.Connection) -> int:
        horizon = connection.execute(self._lock_horizon).scalar_one()
        limit = rules.limit(wanted, self.oldest_unfinished(connection))
        newest = connection.execute(self._newest_finished, {"horizon": limit}).scalar_one_or_none()
        if newest is None:
            return 0
        advanced = rules.next_horizon(horizon, id_after(newest))
        connection.execute(self._advance_horizon, {"transaction_id": advanced})
        return connection.execute(self._delete_finished, {"horizon": advanced}).rowcount


def id_after(transaction_id: str) -> str:
    """The next id in their order."""
    return str(UUID(int=UUID(transaction_id).int + 1))


def id_at(microseconds: int) -> str:
    """The smallest transaction id that could have been minted then (RFC 9562: 48 bits of milliseconds come first)."""
    milliseconds = microseconds // 1000
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7000-8000-000000000000"
