"""The notifier stores what participants confirm, however often its database fails it, and does not let what waits for
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
from handfast.server.chassis.clock import now
from handfast.server.chassis.data import sqlite
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.ids import new_id
from handfast.server.transactions import lost as lost_module
from handfast.server.transactions.coordinator import notifier as notifier_module
from handfast.server.transactions.coordinator.decision_store import DecisionRow, DecisionStore
from handfast.server.transactions.coordinator.notifier import (
    BATCH,
    LEFT_US,
    LONGEST_WITHOUT_WHOLE_PASS,
    DecisionNotifier,
)
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.transactions.v1 import transactions_pb2 as pb
from tests.eventually import eventually


class Confirming:
    """Stands for a participant that confirms whatever it is notified of."""

    def FinishTransactions(self, request: pb.FinishTransactionsRequest, timeout: float) -> Any:
        ids = [decision.transaction_id for decision in request.decisions]
        results = [pb.FinishedTransaction(transaction_id=id_, result=pb.FINISH_RESULT_CONFIRMED) for id_ in ids]
        return pb.FinishTransactionsResponse(results=results)


class Losing:
    """Stands for a participant that has lost what it is to apply."""

    def __init__(self, lost: Collection[str]) -> None:
        self._lost = lost
        self.notified: list[str] = []

    def FinishTransactions(self, request: pb.FinishTransactionsRequest, timeout: float) -> Any:
        ids = [decision.transaction_id for decision in request.decisions]
        self.notified += ids
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
        self.notified: list[str] = []

    def FinishTransactions(self, request: pb.FinishTransactionsRequest, timeout: float) -> Any:
        self.notified += [decision.transaction_id for decision in request.decisions]
        response = super().FinishTransactions(request, timeout)
        results = [result for result in response.results if result.transaction_id == self._one]
        return pb.FinishTransactionsResponse(results=results)


@pytest.fixture
def decisions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecisionStore]:
    monkeypatch.setattr(sqlite, "PATIENCE_S", 0.1)
    monkeypatch.setattr(notifier_module, "LOOK_AGAIN", 0.0)
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
    decisions: DecisionStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = []
    mark_finished = decisions.mark_finished

    def marking(transaction_ids: Collection[str]) -> None:
        try:
            mark_finished(transaction_ids)
        except Exception as error:
            failures.append(error)
            raise

    monkeypatch.setattr(decisions, "mark_finished", marking)
    id_ = new_id()
    decisions.decide(Decision(id_, Outcome.COMMITTED, {"users": 1, "preferences": 1}))
    stubs: Any = {"users": Confirming(), "preferences": Confirming()}
    notifier = notifier_of(decisions, stubs)
    with locked_from_outside(database_url) as end_who_waits:
        notifier.start()
        assert eventually(lambda: end_who_waits() or failures)
        assert eventually(lambda: failures)
    try:
        assert eventually(lambda: unfinished(decisions) == 0)
    finally:
        notifier.stop(10)
    found, _ = decisions.find([id_])
    assert found[id_].finish_time is not None


def notifier_of(decisions: DecisionStore, stubs: Any) -> DecisionNotifier:
    """By its clock, each decision is so old that another replica has left it."""
    return DecisionNotifier(decisions, stubs, lambda: now() + LEFT_US)


def unfinished(decisions: DecisionStore) -> int:
    """How many there are."""
    with decisions.database.read() as connection:
        return decisions.count_unfinished(connection)


def commit(decisions: DecisionStore, count: int) -> list[str]:
    return [decide(decisions).decision.transaction_id for _ in range(count)]


def decide(decisions: DecisionStore, *participants: str) -> DecisionRow:
    """Commits a transaction of these, or of users."""
    return decisions.decide(Decision(new_id(), Outcome.COMMITTED, dict.fromkeys(participants or ["users"], 1)))


def test_a_decision_that_a_participant_lost_is_sent_again_after_growing_pauses(
    decisions: DecisionStore, time: Time
) -> None:
    (lost,) = commit(decisions, 1)
    users = Losing([lost])
    stubs: Any = {"users": users}
    notifier = notifier_of(decisions, stubs)
    users_notifier = notifier.by_participant["users"]
    users_notifier.run_once()
    for count, pause in enumerate((5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600), start=1):
        time.now += pause - 1.0
        users_notifier.run_once()
        assert len(users.notified) == count
        time.now += 1.0
        users_notifier.run_once()
        assert len(users.notified) == count + 1
    assert notifier.lost == 1
    decisions.accept_loss(lost, ["users"])
    users._lost = []
    users_notifier.run_once()
    assert unfinished(decisions) == 0
    users_notifier.tell_all()
    users_notifier.run_once()
    assert notifier.lost == 0


def test_many_that_are_lost_are_not_read_in_every_pass(
    decisions: DecisionStore, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = commit(decisions, 2 * BATCH)
    users = Losing(lost)
    stubs: Any = {"users": users}
    notifier = notifier_of(decisions, stubs)
    users_notifier = notifier.by_participant["users"]
    pages: list[str] = []
    read = decisions.unfinished

    def page(after: str, limit: int) -> list[DecisionRow]:
        pages.append(after)
        return read(after, limit)

    monkeypatch.setattr(decisions, "unfinished", page)
    users_notifier.run_once()
    users_notifier.tell_all()
    users_notifier.run_once()
    assert sorted(users.notified) == lost
    assert pages == 2 * ["", lost[BATCH - 1], lost[-1]]
    pages.clear()
    (fine,) = commit(decisions, 1)
    users_notifier.run_once()
    assert pages == [lost[-1]]
    assert users.notified[-1] == fine
    assert unfinished(decisions) == len(lost)
    time.now += LONGEST_WITHOUT_WHOLE_PASS
    users_notifier.run_once()
    assert sorted(users.notified) == sorted([*lost, *lost, fine])


def test_a_participant_that_is_gone_for_good_is_not_waited_for_once_its_loss_is_accepted(
    decisions: DecisionStore,
) -> None:
    id_ = new_id()
    decisions.decide(Decision(id_, Outcome.COMMITTED, {"users": 1, "gone": 1}))
    stubs: Any = {"users": Confirming()}
    users_notifier = notifier_of(decisions, stubs).by_participant["users"]
    users_notifier.run_once()
    assert unfinished(decisions) == 1
    decisions.accept_loss(id_, ["gone"])
    users_notifier.run_once()
    assert unfinished(decisions) == 0


def test_what_an_answer_leaves_out_is_sent_again_and_not_taken_as_confirmed(decisions: DecisionStore) -> None:
    confirmed, left_out = new_id(), new_id()
    for id_ in (confirmed, left_out):
        decisions.decide(Decision(id_, Outcome.COMMITTED, {"users": 1}))
    users = ConfirmingOne(confirmed)
    stubs: Any = {"users": users}
    notifier = notifier_of(decisions, stubs)
    notifier.start()
    try:
        assert eventually(lambda: users.notified.count(left_out) >= 3)
    finally:
        notifier.stop(10)
    assert users.notified.count(confirmed) == 1
    assert [row.decision.transaction_id for row in decisions.unfinished("", 10)] == [left_out]


def test_what_an_answer_leaves_out_is_told_again_in_the_next_pass_of_who_decided_it(decisions: DecisionStore) -> None:
    confirmed, left_out = decide(decisions), decide(decisions)
    users = ConfirmingOne(confirmed.decision.transaction_id)
    stubs: Any = {"users": users}
    notifier = DecisionNotifier(decisions, stubs)
    for row in (confirmed, left_out):
        notifier.decided(row)
    notifier.by_participant["users"].run_once()
    users.notified.clear()
    for _ in range(2):
        notifier.by_participant["users"].run_once()
    assert users.notified == 2 * [left_out.decision.transaction_id]


def test_a_participant_is_notified_once_and_only_of_what_it_has_a_part_in(decisions: DecisionStore) -> None:
    theirs, ours, shared = new_id(), new_id(), new_id()
    for id_, branches in ((theirs, {"preferences": 1}), (ours, {"users": 1}), (shared, {"users": 1, "preferences": 1})):
        decisions.decide(Decision(id_, Outcome.COMMITTED, branches))
    users = Losing([])
    stubs: Any = {"users": users, "preferences": Confirming()}
    users_notifier = notifier_of(decisions, stubs).by_participant["users"]
    users_notifier.run_once()
    users_notifier.run_once()  # `shared` is not finished, since preferences have not confirmed
    assert users.notified == [ours, shared]


class Recording(Confirming):
    """Keeps how many decisions each request has."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def FinishTransactions(self, request: pb.FinishTransactionsRequest, timeout: float) -> Any:
        self.sizes.append(len(request.decisions))
        return super().FinishTransactions(request, timeout)


class Away(Recording):
    """Stands for a participant that cannot be reached, until it is back."""

    is_back = False

    def FinishTransactions(self, request: pb.FinishTransactionsRequest, timeout: float) -> Any:
        if not self.is_back:
            raise ConnectionError
        return super().FinishTransactions(request, timeout)


@pytest.fixture
def gathers_for_long(decisions: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier_module, "LOOK_AGAIN", 3600.0)
    monkeypatch.setattr(notifier_module, "GATHER", 3600.0)
    monkeypatch.setattr(notifier_module, "BATCH", 3)


@pytest.mark.usefixtures("gathers_for_long")
def test_decisions_are_gathered_until_a_batch_is_full(decisions: DecisionStore) -> None:
    users = Recording()
    stubs: Any = {"users": users}
    notifier = notifier_of(decisions, stubs)
    notifier.start()
    try:
        for _ in range(3):
            notifier.decided(decide(decisions))
        assert eventually(lambda: unfinished(decisions) == 0)
        assert users.sizes == [3]
    finally:
        notifier.stop(10)


@pytest.mark.usefixtures("gathers_for_long")
def test_what_was_gathered_is_sent_before_the_notifier_stops(decisions: DecisionStore) -> None:
    users = Recording()
    stubs: Any = {"users": users}
    notifier = notifier_of(decisions, stubs)
    notifier.start()
    notifier.decided(decide(decisions))
    notifier.stop(10)
    assert users.sizes == [1]
    assert unfinished(decisions) == 0


@pytest.fixture
def of_two_replicas(decisions: DecisionStore) -> tuple[DecisionNotifier, DecisionNotifier, Losing]:
    """Notifiers that have begun, and the participant of both."""
    users = Losing([])
    stubs: Any = {"users": users}
    one, other = (DecisionNotifier(decisions, stubs) for _ in range(2))
    for notifier in (one, other):
        notifier.by_participant["users"].run_once()
    return one, other, users


def test_what_one_replica_decides_it_tells_and_no_other(
    of_two_replicas: tuple[DecisionNotifier, DecisionNotifier, Losing], decisions: DecisionStore
) -> None:
    one, other, users = of_two_replicas
    row = decide(decisions)
    one.decided(row)
    other.by_participant["users"].run_once()
    assert users.notified == []
    one.by_participant["users"].run_once()
    other.by_participant["users"].run_once()
    assert users.notified == [row.decision.transaction_id]
    assert unfinished(decisions) == 0


def test_what_one_replica_has_left_another_tells(
    of_two_replicas: tuple[DecisionNotifier, DecisionNotifier, Losing],
    decisions: DecisionStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, other, users = of_two_replicas
    row = decide(decisions)
    other.by_participant["users"].run_once()
    assert users.notified == []
    monkeypatch.setattr(notifier_module, "LEFT_US", -1)
    other.by_participant["users"].run_once()
    assert users.notified == [row.decision.transaction_id]
    assert unfinished(decisions) == 0


def test_what_a_replica_could_not_tell_it_tells_when_the_participant_is_back(decisions: DecisionStore) -> None:
    users = Away()
    stubs: Any = {"users": users}
    notifier = DecisionNotifier(decisions, stubs)
    notifier.by_participant["users"].run_once()
    for _ in range(2):
        notifier.decided(decide(decisions))
        with pytest.raises(ConnectionError):
            notifier.by_participant["users"].run_once()
    users.is_back = True
    notifier.by_participant["users"].run_once()
    assert users.sizes == [2]
    assert unfinished(decisions) == 0


def test_decisions_that_wait_for_who_is_not_configured_are_counted_by_participant(decisions: DecisionStore) -> None:
    def wait_for(outcome: Outcome, *participants: str) -> str:
        id_ = new_id()
        decisions.decide(Decision(id_, outcome, dict.fromkeys(participants, 1)))
        return id_

    def waiting() -> dict[str, int]:
        with decisions.database.read() as connection:
            return dict(notifier_of(decisions, stubs).unconfigured(connection))

    stubs: Any = {"users": Confirming()}
    wait_for(Outcome.COMMITTED, "users")
    assert waiting() == {}
    both = wait_for(Outcome.COMMITTED, "users", "credits", "weather")
    wait_for(Outcome.COMMITTED, "credits")
    wait_for(Outcome.ABORTED, "credits")
    assert waiting() == {"credits": 2, "weather": 1}
    decisions.accept_loss(both, ["credits"])
    assert waiting() == {"credits": 1, "weather": 1}
    decisions.mark_finished([both])
    assert waiting() == {"credits": 1}


def test_a_rollback_does_not_wait_for_who_is_not_configured(decisions: DecisionStore) -> None:
    decisions.decide(Decision(new_id(), Outcome.ABORTED, {"users": 0, "gone": 0}))
    decisions.decide(Decision(new_id(), Outcome.ABORTED, {"gone": 0}))
    users = Recording()
    stubs: Any = {"users": users}
    notifier_of(decisions, stubs).by_participant["users"].run_once()
    assert unfinished(decisions) == 0
    assert users.sizes == [1]
