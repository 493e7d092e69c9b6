"""The finisher stores what participants confirm, however often its database fails it, and does not let what waits for
an operator cost much; on a real database each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from handfast.server.accounts import tables
from handfast.server.accounts.server import SCHEMA
from handfast.server.chassis.data import database as databases
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.ids import new_id
from handfast.server.transactions import lost as lost_module
from handfast.server.transactions.coordinator import notifier as notifier_module
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.notifier import BATCH, LONGEST_WITHOUT_WHOLE_PASS, DecisionNotifier
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.transactions.v1 import transactions_pb2 as pb
from tests.eventually import eventually


class Confirming:
    """Stands for a participant that confirms whatever it is told."""

    def FinishTransactions(self, request: pb.FinishTransactionsRequest, timeout: float) -> Any:
        ids = [decision.transaction_id for decision in request.decisions]
        results = [pb.FinishedTransaction(transaction_id=id_, result=pb.FINISH_RESULT_CONFIRMED) for id_ in ids]
        return pb.FinishTransactionsResponse(results=results)


class Losing:
    """Stands for a participant that has lost what it is told to apply."""

    def __init__(self, lost: Collection[str]) -> None:
        self._lost = lost
        self.told: list[str] = []

    def FinishTransactions(self, request: pb.FinishTransactionsRequest, timeout: float) -> Any:
        ids = [decision.transaction_id for decision in request.decisions]
        self.told += ids
        results = [pb.FinishedTransaction(transaction_id=id_, result=self._result(id_)) for id_ in ids]
        return pb.FinishTransactionsResponse(results=results)

    def _result(self, id_: str) -> pb.FinishResult.ValueType:
        return pb.FINISH_RESULT_LOST if id_ in self._lost else pb.FINISH_RESULT_CONFIRMED


class Time:
    """Stands for the module `time`: each look at it takes a millisecond."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    for module in (notifier_module, lost_module):
        monkeypatch.setattr(module, "time", time)
    return time


class ConfirmingOne(Confirming):
    """Stands for a participant that leaves all but one out of its answers."""

    def __init__(self, one: str) -> None:
        self._one = one
        self.told: list[str] = []

    def FinishTransactions(self, request: pb.FinishTransactionsRequest, timeout: float) -> Any:
        self.told += [decision.transaction_id for decision in request.decisions]
        response = super().FinishTransactions(request, timeout)
        results = [result for result in response.results if result.transaction_id == self._one]
        return pb.FinishTransactionsResponse(results=results)


@pytest.fixture
def register(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecisionStore]:
    monkeypatch.setattr(databases, "POOL_TIMEOUT", 0.1)
    monkeypatch.setattr(notifier_module, "LOOK_AGAIN", 0.05)
    database = Database(database_url)
    upgrade(database, SCHEMA)
    yield DecisionStore(database, tables.coordinator)
    database.close()


@contextmanager
def locked_from_outside(url: str) -> Iterator[Callable[[], object]]:
    """Another program has locked the decisions. What it yields ends the connections to PostgreSQL that wait for it."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield lambda: None
        return
    waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    engine = sa.create_engine(url)
    try:
        with engine.begin() as holder, engine.connect() as other:
            holder.execute(sa.select(tables.coordinator.decisions).with_for_update())
            yield lambda: other.exec_driver_sql(waiting).all()
    finally:
        engine.dispose()


def test_a_confirmation_that_could_not_be_stored_is_stored_later(
    register: DecisionStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = []
    mark_finished = register.mark_finished

    def marking(transaction_ids: Collection[str]) -> None:
        try:
            mark_finished(transaction_ids)
        except Exception as error:
            failures.append(error)
            raise

    monkeypatch.setattr(register, "mark_finished", marking)
    id_ = new_id()
    register.decide(Decision(id_, Outcome.COMMITTED, {"users": 1, "preferences": 1}))
    stubs: Any = {"users": Confirming(), "preferences": Confirming()}
    finisher = DecisionNotifier(register, stubs)
    with locked_from_outside(database_url) as end_who_waits:
        finisher.start()
        assert eventually(lambda: end_who_waits() or failures)
        assert eventually(lambda: failures)
    try:
        assert eventually(lambda: register.count_unfinished() == 0)
    finally:
        finisher.stop(10)
    found, _ = register.find([id_])
    assert found[id_].finish_time is not None


def commit(register: DecisionStore, count: int) -> list[str]:
    ids = [new_id() for _ in range(count)]
    for id_ in ids:
        register.decide(Decision(id_, Outcome.COMMITTED, {"users": 1}))
    return ids


def test_what_is_lost_is_told_again_with_growing_pauses(register: DecisionStore, time: Time) -> None:
    (lost,) = commit(register, 1)
    users = Losing([lost])
    stubs: Any = {"users": users}
    finisher = DecisionNotifier(register, stubs)
    teller = finisher._tellers["users"]
    teller._pass()
    for count, pause in enumerate((5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600), start=1):
        time.now += pause - 1.0
        teller._pass()
        assert len(users.told) == count
        time.now += 1.0
        teller._pass()
        assert len(users.told) == count + 1
    assert finisher.lost == 1
    register.accept_loss(lost, ["users"])
    users._lost = []
    teller._pass()
    assert register.count_unfinished() == 0
    teller.look_at_everything()
    teller._pass()
    assert finisher.lost == 0


def test_many_that_are_lost_are_not_read_in_every_pass(
    register: DecisionStore, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = commit(register, 2 * BATCH)
    users = Losing(lost)
    stubs: Any = {"users": users}
    finisher = DecisionNotifier(register, stubs)
    teller = finisher._tellers["users"]
    pages: list[str] = []
    unfinished = register.unfinished

    def page(after: str, limit: int) -> list[Decision]:
        pages.append(after)
        return unfinished(after, limit)

    monkeypatch.setattr(register, "unfinished", page)
    teller._pass()
    teller.look_at_everything()
    teller._pass()
    assert sorted(users.told) == lost
    assert pages == 2 * ["", lost[BATCH - 1], lost[-1]]
    pages.clear()
    (fine,) = commit(register, 1)
    teller._pass()
    assert pages == [lost[-1]]
    assert users.told[-1] == fine
    assert register.count_unfinished() == len(lost)
    time.now += LONGEST_WITHOUT_WHOLE_PASS
    teller._pass()
    assert sorted(users.told) == sorted([*lost, *lost, fine])


def test_a_participant_that_is_gone_for_good_is_not_waited_for_once_its_loss_is_accepted(
    register: DecisionStore,
) -> None:
    id_ = new_id()
    register.decide(Decision(id_, Outcome.COMMITTED, {"users": 1, "gone": 1}))
    stubs: Any = {"users": Confirming()}
    teller = DecisionNotifier(register, stubs)._tellers["users"]
    teller._pass()
    assert register.count_unfinished() == 1
    register.accept_loss(id_, ["gone"])
    teller._pass()
    assert register.count_unfinished() == 0


def test_what_an_answer_leaves_out_is_told_again_and_not_taken_as_confirmed(register: DecisionStore) -> None:
    confirmed, left_out = new_id(), new_id()
    for id_ in (confirmed, left_out):
        register.decide(Decision(id_, Outcome.COMMITTED, {"users": 1}))
    users = ConfirmingOne(confirmed)
    stubs: Any = {"users": users}
    finisher = DecisionNotifier(register, stubs)
    finisher.start()
    try:
        assert eventually(lambda: users.told.count(left_out) >= 3)
    finally:
        finisher.stop(10)
    assert users.told.count(confirmed) == 1
    assert [decision.transaction_id for decision in register.unfinished("", 10)] == [left_out]


def test_a_participant_is_told_once_and_only_of_what_it_has_a_part_in(register: DecisionStore) -> None:
    theirs, ours, shared = new_id(), new_id(), new_id()
    for id_, branches in ((theirs, {"preferences": 1}), (ours, {"users": 1}), (shared, {"users": 1, "preferences": 1})):
        register.decide(Decision(id_, Outcome.COMMITTED, branches))
    users = Losing([])
    stubs: Any = {"users": users, "preferences": Confirming()}
    teller = DecisionNotifier(register, stubs)._tellers["users"]
    teller._pass()
    teller._pass()  # `shared` is not finished, since preferences have not confirmed
    assert users.told == [ours, shared]
