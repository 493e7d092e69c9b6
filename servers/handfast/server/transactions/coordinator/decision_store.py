"""The decisions in their table, each of which is written once (rule 3).

The primary key decides: the first insert of a transaction wins, and who loses reads the winner by a separate statement.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
import structlog

from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.distribution import Reason, across_keys
from handfast.server.chassis.data.statements import Row, Statement
from handfast.server.transactions.coordinator.errors import TransactionForgotten
from handfast.server.transactions.coordinator.tables import CoordinatorTables
from handfast.server.transactions.core import coordinator as rules
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.horizon import Prunable


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision with its times, in microseconds since the epoch; `finish_time` is None until all participants
    confirmed. `inserted` says that it was not there before.
    """

    decision: Decision
    decide_time: int
    finish_time: int | None
    inserted: bool = False


MOST_KNOWN = 10_000

_log = structlog.get_logger()


class DecisionStore(Prunable):
    def __init__(self, database: Database, tables: CoordinatorTables, clock: Clock = now) -> None:
        table, id_ = tables.decisions, tables.decisions.c.transaction_id
        finished = table.c.finish_time.is_not(None)
        is_id, one_of_them = id_ == sa.bindparam("id_"), database.one_of(id_, "ids")
        super().__init__(database, id_, finished, tables.horizon)
        # Each is called once for what this server did, after that is committed.
        self.on_decided: Callable[[DecisionRow], None] = lambda row: None
        self.on_finished: Callable[[Outcome, int, int], None] = lambda outcome, decide_time, finish_time: None
        self.on_loss_accepted: Callable[[], None] = lambda: None
        self._table, self._clock = table, clock
        self._durable = RecentIds(MOST_KNOWN)
        self._insert = Statement(database, _insert_unless_forgotten(database, tables))
        self._find = Statement(database, sa.select(table).where(one_of_them))
        lock_known = sa.select(id_).where(one_of_them).order_by(id_).with_for_update(read=True, key_share=True)
        self._lock_known = Statement(database, lock_known)
        unfinished = sa.select(table).where(sa.not_(finished), id_ > sa.bindparam("after"))
        unfinished = unfinished.order_by(id_).limit(sa.bindparam("limit_"))
        self._unfinished = Statement(database, across_keys(Reason.MAINTENANCE, unfinished))
        texts = [sa.cast(each, sa.Text).label(each.name) for each in (table.c.branches, table.c.loss_accepted)]
        count = sa.func.count().label("count_")
        alike = sa.select(table.c.outcome, *texts, count).where(sa.not_(finished))
        self._unfinished_alike = across_keys(Reason.MAINTENANCE, alike.group_by(table.c.outcome, *texts))
        mark = sa.update(table).where(one_of_them, sa.not_(finished))
        self._mark_finished = Statement(database, mark.returning(table.c.outcome, table.c.decide_time))
        self._lock = sa.select(table).where(is_id).with_for_update()
        self._accept_loss = sa.update(table).where(is_id)

    def insert(self, connection: sa.Connection, decision: Decision) -> DecisionRow:
        """Inserts a decision where there is none. Returns the one that stands. Raises TransactionForgotten below the
        horizon. Once the local transaction has committed, `observe` is to be called.
        """
        decide_time = self._clock()
        row = DecisionRow(decision, decide_time, None if decision.branches else decide_time, inserted=True)
        inserted = self._insert.run(
            connection,
            transaction_id=decision.transaction_id,
            outcome=decision.outcome.value,
            branches=dict(decision.branches),
            abort_reason=decision.abort_reason,
            decide_time=row.decide_time,
            finish_time=row.finish_time,
        )
        if inserted:
            return row
        standing = self._find.first(connection, ids=[decision.transaction_id])
        if standing is None:
            raise TransactionForgotten(decision.transaction_id)
        return _decision_row(standing)

    def decide(self, decision: Decision) -> DecisionRow:
        """`insert` in a local transaction of its own."""
        row = self.database.write(partial(self.insert, decision=decision), one_statement=True)
        self.observe(row)
        return row

    def observe(self, row: DecisionRow) -> None:
        """Notes that it is durable, and tells of it, if `insert` did insert it. Apart from it, as what is inserted may
        be rolled back."""
        self._durable.add(row.decision.transaction_id)
        if row.inserted:
            self.on_decided(row)

    def find(self, transaction_ids: Collection[str]) -> tuple[dict[str, DecisionRow], str]:
        """Those that are decided, which are durable, and the horizon, read afterwards: what is below and not found has
        been forgotten."""
        with self.database.read() as connection:
            rows = self._find.all(connection, ids=list(transaction_ids))
            horizon = self.horizon(connection)
        found = {row.transaction_id: _decision_row(row) for row in rows}
        self.wait_until_durable(found)
        return found, horizon

    def wait_until_durable(self, transaction_ids: Iterable[str]) -> None:
        """Returns once these decisions can be told. Who goes by one that a failover takes away tears its transaction.
        Of nearly all this is known, as they were made here, or asked for before."""
        unknown = [each for each in transaction_ids if each not in self._durable]
        if unknown and self.database.backend.replicates:
            with self.database.read_durable() as connection:
                self._lock_known.all(connection, ids=unknown)
            for each in unknown:
                self._durable.add(each)

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
        with self.database.read() as connection:
            return [_decision_row(row) for row in connection.execute(across_keys(Reason.PAGE, query))]

    def waiting_for_others(self, connection: sa.Connection, configured: Set[str]) -> dict[str, int]:
        """How many unfinished decisions wait for each participant that is not `configured`."""
        waiting: Counter[str] = Counter()
        for row in connection.execute(self._unfinished_alike):
            accepted = frozenset(json.loads(row.loss_accepted or "[]"))
            alike = Decision("", Outcome(row.outcome), json.loads(row.branches), loss_accepted=accepted)
            waiting.update(dict.fromkeys(rules.waits_for(alike, configured) - configured, row.count_))
        return waiting

    def unfinished(self, after: str, limit: int) -> list[DecisionRow]:
        """The oldest decisions that some participant has not confirmed, from after the transaction `after` on."""
        with self.database.read() as connection:
            return [_decision_row(row) for row in self._unfinished.all(connection, after=after, limit_=limit)]

    def mark_finished(self, transaction_ids: Collection[str]) -> None:
        """What another replica has marked already stays as it is."""
        finish_time = self._clock()
        mark = partial(self._mark_finished.all, ids=list(transaction_ids), finish_time=finish_time)
        for row in self.database.write(mark, one_statement=True):
            self.on_finished(Outcome(row.outcome), row.decide_time, finish_time)

    def accept_loss(self, transaction_id: str, participants: Collection[str]) -> DecisionRow | None:
        """Lets these finish a transaction without what they have lost of it. Returns the decision with their names;
        None where there is none any more.
        """
        row, new = self.database.write(
            partial(self._accept, transaction_id=transaction_id, participants=sorted(participants))
        )
        for participant in new:
            _log.warning("a loss was accepted", transaction_id=transaction_id, participant=participant)
            self.on_loss_accepted()
        return row

    def _accept(
        self, connection: sa.Connection, transaction_id: str, participants: Sequence[str]
    ) -> tuple[DecisionRow | None, Sequence[str]]:
        before = connection.execute(self._lock, {"id_": transaction_id}).one_or_none()
        if before is None:
            return None, []
        accepted = before.loss_accepted or []
        new = [name for name in participants if name not in accepted]
        connection.execute(self._accept_loss, {"id_": transaction_id, "loss_accepted": [*accepted, *new]})
        return _decision_row(self._find.first(connection, ids=[transaction_id])), new


class RecentIds:
    """The ids that were added last: `most` of them at least, and twice as many at the most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._newer, self._older = set[str](), set[str]()

    def __contains__(self, id_: str) -> bool:
        return id_ in self._newer or id_ in self._older

    def add(self, id_: str) -> None:
        self._newer.add(id_)
        if len(self._newer) >= self._most:
            self._newer, self._older = set(), self._newer


def _insert_unless_forgotten(database: Database, tables: CoordinatorTables) -> Any:
    """Inserts a decision where there is none, at the horizon or above it (`may_insert`, rule 10), which nobody advances
    until the local transaction ends."""
    columns = [column for column in tables.decisions.columns if column.name != "loss_accepted"]
    horizon = tables.horizon.c.transaction_id
    values = sa.select(*(sa.bindparam(column.name, type_=column.type) for column in columns))
    allowed = values.select_from(tables.horizon).where(horizon <= sa.bindparam("transaction_id"))
    return database.insert_new(tables.decisions).from_select(columns, allowed.with_for_update(read=True))


def _decision_row(row: Row) -> DecisionRow:
    loss_accepted = frozenset(row.loss_accepted or ())
    decision = Decision(row.transaction_id, Outcome(row.outcome), row.branches, row.abort_reason, loss_accepted)
    return DecisionRow(decision, row.decide_time, row.finish_time)
