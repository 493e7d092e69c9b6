"""How a participant asks the coordinator: one question for all, and nobody waits long for one that does not answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from handfast.client import channel
from handfast.server.chassis.ids import new_id
from handfast.server.transactions.core.model import BranchDecision, Learnt, Outcome
from handfast.server.transactions.participant import circuit, resolver
from handfast.server.transactions.participant.errors import CoordinatorUnavailable
from handfast.server.transactions.participant.resolver import CoordinatorResolver
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1 import transactions_pb2_grpc as pb_grpc
from tests.eventually import PATIENCE, eventually

THREADS = 4
"""Of the participant's server; half of them may wait for a coordinator that is slow."""
T1, T2 = new_id(), new_id()


class Coordinator(pb_grpc.TransactionServiceServicer):
    """Answers each question when it is let."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []
        self.let = threading.Semaphore(0)
        self.knows = True
        self.refuses = False

    def BatchGetTransactions(self, request: Any, context: Any) -> pb.BatchGetTransactionsResponse:
        self.questions.append(list(request.transaction_ids))
        assert self.let.acquire(timeout=PATIENCE)
        if self.refuses:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
        ids = request.transaction_ids if self.knows else request.transaction_ids[1:]
        state = pb.TRANSACTION_STATE_UNDECIDED
        return pb.BatchGetTransactionsResponse(
            transactions=[pb.Transaction(transaction_id=id_, state=state) for id_ in ids]
        )


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    coordinator = Coordinator()  # type: ignore[abstract]
    yield coordinator
    coordinator.let.release(1000)  # none is held any more


@pytest.fixture
def asking(coordinator: Coordinator, pool: ThreadPoolExecutor) -> Iterator[CoordinatorResolver]:
    server = grpc.server(ThreadPoolExecutor(8))
    pb_grpc.add_TransactionServiceServicer_to_server(coordinator, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with channel(f"127.0.0.1:{port}") as to_coordinator:
        yield CoordinatorResolver(pb_grpc.TransactionServiceStub(to_coordinator), "users", threads=THREADS)
        coordinator.let.release(1000)
        pool.shutdown()
    server.stop(None).wait()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gives up before the test is done."""
    for module in (circuit, resolver):
        monkeypatch.setattr(module, "ANSWER_TIMEOUT", PATIENCE)
    monkeypatch.setattr(circuit, "CROWD_TIMEOUT", PATIENCE)


def asked(coordinator: Coordinator, count: int) -> bool:
    return bool(eventually(lambda: len(coordinator.questions) == count))


def refused(future: Future[dict[str, Learnt]]) -> bool:
    with pytest.raises(CoordinatorUnavailable) as error:
        future.result(PATIENCE)
    return error.value.retry_after is not None


@pytest.mark.usefixtures("patient")
def test_what_is_asked_while_a_question_is_under_way_goes_into_the_next_one(
    coordinator: Coordinator, asking: CoordinatorResolver, pool: ThreadPoolExecutor
) -> None:
    first = pool.submit(asking.ask, [T1])
    assert asked(coordinator, 1)
    later = [pool.submit(asking.ask, ids) for ids in ([T1], [T1], [T2], [T1, T2])]
    assert eventually(lambda: len(asking._next) == len(later))
    coordinator.let.release()
    assert first.result() == {T1: None}
    assert asked(coordinator, 2)
    assert not any(each.done() for each in later), "they take no answer to a question that was asked before"
    coordinator.let.release()
    assert [each.result() for each in later] == [{T1: None}, {T1: None}, {T2: None}, {T1: None, T2: None}]
    assert coordinator.questions == [[T1], sorted([T1, T2])]


@pytest.mark.usefixtures("patient")
def test_a_question_asks_for_no_more_than_the_coordinator_takes(
    coordinator: Coordinator, asking: CoordinatorResolver, pool: ThreadPoolExecutor
) -> None:
    first = pool.submit(asking.ask, [T1])
    assert asked(coordinator, 1)
    pages = [[new_id() for _ in range(600)] for _ in range(3)]
    later = [pool.submit(asking.ask, page) for page in pages]
    assert eventually(lambda: len(asking._next) == len(pages))
    coordinator.let.release(1 + len(pages))
    assert first.result()
    assert [sorted(each.result()) for each in later] == [sorted(page) for page in pages]
    assert [len(question) for question in coordinator.questions] == [1, 600, 600, 600]


@pytest.mark.usefixtures("patient")
def test_what_an_answer_leaves_out_is_not_taken_for_known(
    coordinator: Coordinator, asking: CoordinatorResolver, pool: ThreadPoolExecutor
) -> None:
    coordinator.knows = False
    coordinator.let.release()
    assert refused(pool.submit(asking.ask, [T1, T2]))


def test_nobody_asks_again_at_once_where_nobody_answers(
    coordinator: Coordinator, asking: CoordinatorResolver, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit, "OPEN", 3600.0)
    assert refused(pool.submit(asking.ask, [T1]))
    assert all(refused(pool.submit(asking.ask, [id_])) for id_ in (T1, T2))
    with pytest.raises(CoordinatorUnavailable):
        asking.abort(T1)
    assert len(coordinator.questions) == 1


def test_one_at_a_time_finds_out_whether_the_coordinator_is_back(
    coordinator: Coordinator, asking: CoordinatorResolver, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit, "OPEN", 0.0)
    assert refused(pool.submit(asking.ask, [T1]))
    for module in (circuit, resolver):
        monkeypatch.setattr(module, "ANSWER_TIMEOUT", PATIENCE)
    finds_out = pool.submit(asking.ask, [T1])
    assert asked(coordinator, 2)
    assert refused(pool.submit(asking.ask, [T2]))
    coordinator.let.release(3)
    assert finds_out.result() == {T1: None}
    assert asking.ask([T2]) == {T2: None}


def test_few_wait_long_for_a_coordinator_that_is_slow(
    coordinator: Coordinator, asking: CoordinatorResolver, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (circuit, resolver):
        monkeypatch.setattr(module, "ANSWER_TIMEOUT", PATIENCE)
    waiting = [pool.submit(asking.ask, [T1]) for _ in range(THREADS // 2)]
    assert asked(coordinator, 1)
    assert eventually(lambda: len(asking._next) == len(waiting) - 1)
    assert all(refused(pool.submit(asking.ask, [T2])) for _ in range(2 * THREADS))
    assert not any(each.done() for each in waiting)
    coordinator.let.release(3)
    assert all(each.result() == {T1: None} for each in waiting)
    assert coordinator.questions == [[T1], [T1]]


def test_after_a_question_that_was_refused_the_next_one_is_asked(
    coordinator: Coordinator, asking: CoordinatorResolver, pool: ThreadPoolExecutor
) -> None:
    coordinator.let.release(1000)
    coordinator.refuses = True
    assert refused(pool.submit(asking.ask, [T1]))
    coordinator.refuses = False
    assert pool.submit(asking.ask, [T1]).result(PATIENCE) == {T1: None}


def test_a_question_that_cannot_be_sent_keeps_no_later_one_from_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "OPEN", 0.0)
    to_coordinator = channel("127.0.0.1:1")
    asking = CoordinatorResolver(pb_grpc.TransactionServiceStub(to_coordinator), "users", threads=THREADS)
    to_coordinator.close()
    for _ in range(3):
        for attempt in (lambda: asking.ask([T1]), lambda: asking.abort(T1)):
            with pytest.raises(ValueError, match="Channel closed"):
                attempt()


@pytest.mark.parametrize(
    ("transaction", "learnt"),
    [
        (pb.Transaction(state=pb.TRANSACTION_STATE_UNDECIDED), None),
        (pb.Transaction(state=pb.TRANSACTION_STATE_STAGED), None),
        (pb.Transaction(state=pb.TRANSACTION_STATE_ABORTED), BranchDecision(T1, Outcome.ABORTED, 0)),
        (pb.Transaction(state=pb.TRANSACTION_STATE_FORGOTTEN), BranchDecision(T1, None, 0)),
        (
            pb.Transaction(
                state=pb.TRANSACTION_STATE_COMMITTED,
                branches=[
                    pb.TransactionBranch(participant="preferences", operation_count=1),
                    pb.TransactionBranch(participant="users", operation_count=2),
                ],
                loss_accepted=["users"],
            ),
            BranchDecision(T1, Outcome.COMMITTED, 2, loss_accepted=True),
        ),
        (
            pb.Transaction(
                state=pb.TRANSACTION_STATE_COMMITTED,
                branches=[pb.TransactionBranch(participant="preferences", operation_count=1)],
                loss_accepted=["preferences"],
            ),
            BranchDecision(T1, Outcome.COMMITTED, 0),
        ),
    ],
)
def test_a_participant_learns_what_concerns_it_and_takes_a_state_that_it_does_not_know_for_undecided(
    transaction: pb.Transaction, learnt: Learnt
) -> None:
    transaction.transaction_id = T1
    assert resolver.learnt(transaction, "users") == learnt
