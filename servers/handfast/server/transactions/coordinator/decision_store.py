"""The decisions in their table: a write-once register (rule 3).

The primary key decides: the first insert of a transaction wins, and who loses reads the winner by a separate statement.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
import structlog

from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.database import Database
from handfast.server.transactions.coordinator.errors import TransactionForgotten
from handfast.server.transactions.coordinator.tables import CoordinatorTables
from handfast.server.transactions.core import coordinator as rules
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.horizon import Horizon


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision with its times, in microseconds since the epoch; `finish_time` is None until all participants
    confirmed. `inserted` says that it was not there before.
    """

    decision: Decision
    decide_time: int
    finish_time: int | None
    inserted: bool = False


class Observer(Protocol):
    """Is told once of each decision that is made here, marked as finished, or let finish with a loss. It should be
    quick."""

    def decided(self, recorded: DecisionRow) -> None: ...

    def finished(self, recorded: DecisionRow) -> None: ...

    def loss_accepted(self) -> None: ...


_log = structlog.get_logger()


class DecisionStore:
    def __init__(
        self, database: Database, tables: CoordinatorTables, clock: Clock = now, observers: Sequence[Observer] = ()
    ) -> None:
        table = tables.decisions
        self.database, self._observers = database, observers
        self._table, self._clock = table, clock
        self._insert = database.insert_new(table)
        self._find = sa.select(table).where(table.c.transaction_id.in_(sa.bindparam("ids", expanding=True)))
        self._unfinished = (
            sa.select(table)
            .where(table.c.finish_time.is_(None), table.c.transaction_id > sa.bindparam("after"))
            .order_by(table.c.transaction_id)
            .limit(sa.bindparam("limit_"))
        )
        self._mark_finished = (
            sa.update(table)
            .where(table.c.transaction_id.in_(sa.bindparam("ids", expanding=True)), table.c.finish_time.is_(None))
            .returning(table)
        )
        is_id = table.c.transaction_id == sa.bindparam("id_")
        self._lock = sa.select(table).where(is_id).with_for_update()
        self._accept_loss = sa.update(table).where(is_id)
        self.horizon = Horizon(tables.horizon)
        finished = table.c.finish_time.is_not(None)
        self._count_unfinished = sa.select(sa.func.count()).select_from(table).where(sa.not_(finished))
        self._oldest_unfinished = sa.select(sa.func.min(table.c.transaction_id)).where(sa.not_(finished))
        below = table.c.transaction_id < sa.bindparam("horizon")
        newest_first = table.c.transaction_id.desc()
        self._newest_finished = sa.select(table.c.transaction_id).where(below, finished).order_by(newest_first).limit(1)
        self._delete = sa.delete(table).where(below, finished)

    def insert(self, connection: sa.Connection, decision: Decision) -> DecisionRow:
        """Inserts a decision where there is none. Returns the one that stands. Raises TransactionForgotten below the
        horizon. Once the local transaction has committed, `observe` is to be called.
        """
        if not rules.may_insert(decision.transaction_id, self.horizon.held(connection)):
            raise TransactionForgotten(decision.transaction_id)
        decide_time = self._clock()
        finish_time = None if decision.branches else decide_time
        values = {
            "transaction_id": decision.transaction_id,
            "outcome": decision.outcome.value,
            "branches": dict(decision.branches),
            "abort_reason": decision.abort_reason,
            "decide_time": decide_time,
            "finish_time": finish_time,
        }
        if connection.execute(self._insert, values).rowcount == 1:
            return DecisionRow(decision, decide_time, finish_time, inserted=True)
        return _recorded(connection.execute(self._find, {"ids": [decision.transaction_id]}).one())

    def decide(self, decision: Decision) -> DecisionRow:
        """`insert` in a local transaction of its own."""
        recorded = self.database.write(lambda connection: self.insert(connection, decision))
        self.observe(recorded)
        return recorded

    def observe(self, recorded: DecisionRow) -> None:
        """Tells the observers, if `insert` did insert it. Apart from it, as what is inserted may be rolled back."""
        for observer in self._observers if recorded.inserted else ():
            observer.decided(recorded)

    def find(self, transaction_ids: Collection[str]) -> tuple[dict[str, DecisionRow], str]:
        """Those that are decided, and the horizon, read afterwards: what is below and not found has been forgotten."""
        with self.database.read() as connection:
            found = connection.execute(self._find, {"ids": list(transaction_ids)}).all()
            return {row.transaction_id: _recorded(row) for row in found}, self.horizon.seen(connection)

    def page(self, start: str, limit: int, outcome: Outcome | None, *, unfinished: bool = False) -> list[DecisionRow]:
        """The newest first, from before the transaction `start` on; of those that are `unfinished` the oldest first,
        from after it on. Empty: from the first one.
        """
        id_ = self._table.c.transaction_id
        query = sa.select(self._table).limit(limit).order_by(id_ if unfinished else id_.desc())
        if start:
            query = query.where(id_ > start if unfinished else id_ < start)
        if unfinished:
            query = query.where(self._table.c.finish_time.is_(None))
        if outcome is not None:
            query = query.where(self._table.c.outcome == outcome.value)
        return list(self._read(query, {}).values())

    def unfinished(self, after: str, limit: int) -> list[Decision]:
        """The oldest decisions that some participant has not confirmed, from after the transaction `after` on."""
        found = self._read(self._unfinished, {"after": after, "limit_": limit})
        return [recorded.decision for recorded in found.values()]

    def mark_finished(self, transaction_ids: Collection[str]) -> None:
        """What another replica has marked already stays as it is."""
        finished = {"ids": list(transaction_ids), "finish_time": self._clock()}
        marked = self.database.write(lambda connection: connection.execute(self._mark_finished, finished).all())
        for row in marked:
            for observer in self._observers:
                observer.finished(_recorded(row))

    def accept_loss(self, transaction_id: str, participants: Collection[str]) -> DecisionRow | None:
        """Lets these finish a transaction without what they have lost of it. Returns the decision with their names;
        None where there is none any more.
        """

        def work(connection: sa.Connection) -> tuple[DecisionRow | None, list[str]]:
            row = connection.execute(self._lock, {"id_": transaction_id}).one_or_none()
            if row is None:
                return None, []
            before = row.loss_accepted or []
            new = [name for name in sorted(participants) if name not in before]
            connection.execute(self._accept_loss, {"id_": transaction_id, "loss_accepted": [*before, *new]})
            return _recorded(connection.execute(self._find, {"ids": [transaction_id]}).one()), new

        recorded, new = self.database.write(work)
        for participant in new:
            _log.warning("a loss was accepted", transaction_id=transaction_id, participant=participant)
            for observer in self._observers:
                observer.loss_accepted()
        return recorded

    def count_unfinished(self) -> int:
        with self.database.read() as connection:
            return int(connection.execute(self._count_unfinished).scalar_one())

    def prune(self, wanted: str) -> int:
        """Forgets finished decisions below the id `wanted`, as far as the rules let it. Returns how many."""

        return self.database.write(lambda connection: self.horizon.prune(connection, self, wanted))

    def oldest_unfinished(self, connection: sa.Connection) -> str | None:
        oldest: str | None = connection.execute(self._oldest_unfinished).scalar_one()
        return oldest

    def newest_finished(self, connection: sa.Connection, below: str) -> str | None:
        newest: str | None = connection.execute(self._newest_finished, {"horizon": below}).scalar_one_or_none()
        return newest

    def delete_finished(self, connection: sa.Connection, below: str) -> int:
        return connection.execute(self._delete, {"horizon": below}).rowcount

    def _read(self, query: sa.Select[Any], parameters: dict[str, Any]) -> dict[str, DecisionRow]:
        with self.database.read() as connection:
            return {row.transaction_id: _recorded(row) for row in connection.execute(query, parameters)}


def _recorded(row: sa.Row[Any]) -> DecisionRow:
    loss_accepted = frozenset(row.loss_accepted or ())
    decision = Decision(row.transaction_id, Outcome(row.outcome), row.branches, row.abort_reason, loss_accepted)
    return DecisionRow(decision, row.decide_time, row.finish_time)
