"""Asks the coordinator what became of a transaction. Never called inside a local transaction."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from threading import Event
from typing import Any, Protocol

import grpc

from handfast.client.errors import FailedPrecondition, ServiceError
from handfast.client.propagation import CURRENT as PROPAGATED
from handfast.client.propagation import Propagated, propagating
from handfast.server.chassis.cancellation import cancel_scope, check_active
from handfast.server.transactions import wire
from handfast.server.transactions.core.model import BranchDecision, Learnt, Outcome
from handfast.server.transactions.participant.circuit import ANSWER_TIMEOUT, Circuit, CircuitOpen
from handfast.server.transactions.participant.errors import CoordinatorUnavailable
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub


class Resolver(Protocol):
    def ask(self, transaction_ids: Collection[str]) -> dict[str, Learnt]:
        """What is known of each transaction. Raises CoordinatorUnavailable."""

    def abort(self, transaction_id: str) -> Learnt:
        """Aborts a transaction unless it is decided. Returns how it is decided then. Raises CoordinatorUnavailable."""


class _Asker:
    """A call that waits for an answer."""

    def __init__(self, transaction_ids: Collection[str]) -> None:
        self.transaction_ids = frozenset(transaction_ids)
        self.propagated = PROPAGATED.get()
        self.answered = Event()
        self.answer: dict[str, Learnt] = {}


class CoordinatorResolver:
    """Asks by TransactionService, one question at a time: what calls want to know meanwhile goes into the next one
    together. So many calls that meet the same transaction cost one question, and no call takes an answer that is
    older than what it has read itself.

    `participant` is the name that transactions know the service by. `threads` is how many calls are served at once.
    Half of them may wait for a coordinator that is slow to answer.
    """

    def __init__(self, stub: TransactionServiceStub, participant: str, *, threads: int) -> None:
        self._stub, self._participant = stub, participant
        self._circuit = Circuit(room=max(1, threads // 2))
        self._lock = threading.Lock()
        self._asking: Sequence[_Asker] = ()  # those whose question is under way
        self._next: list[_Asker] = []

    def ask(self, transaction_ids: Collection[str]) -> dict[str, Learnt]:
        asker = _Asker(transaction_ids)
        try:
            with self._circuit.waiting() as seconds:
                with self._lock:
                    self._next.append(asker)
                self._ask_next()
                _wait(asker.answered, seconds)
        except CircuitOpen:
            pass
        finally:
            with self._lock:
                if asker in self._next:
                    self._next.remove(asker)
        if not asker.transaction_ids <= asker.answer.keys():
            raise _unavailable(min(transaction_ids))
        return {id_: asker.answer[id_] for id_ in asker.transaction_ids}

    def abort(self, transaction_id: str) -> Learnt:
        request = pb.RollbackTransactionRequest(transaction_id=transaction_id, abort_reason="TRANSACTION_EXPIRED")
        answered = Event()
        try:
            with self._circuit.waiting() as seconds:
                future = self._send(self._stub.RollbackTransaction, request, PROPAGATED.get())
                future.add_done_callback(lambda _: answered.set())
                _wait(answered, seconds)
                if future.done():
                    return learnt(future.result().transaction, self._participant)
        except FailedPrecondition:
            return self.ask([transaction_id])[transaction_id]
        except (ServiceError, CircuitOpen) as error:
            raise _unavailable(transaction_id) from error
        raise _unavailable(transaction_id)

    def _ask_next(self) -> None:
        """Sends the next question, unless one is under way."""
        with self._lock:
            if self._asking or not self._next:
                return
            self._asking = askers = self._next[: _fitting(self._next)]
            del self._next[: len(askers)]
        wanted = frozenset[str]().union(*(asker.transaction_ids for asker in askers))
        request = pb.BatchGetTransactionsRequest(transaction_ids=sorted(wanted))
        try:
            future = self._send(self._stub.BatchGetTransactions, request, askers[0].propagated)
        except BaseException:
            self._wake({})
            raise
        future.add_done_callback(self._on_answer)

    def _on_answer(self, future: Any) -> None:
        answer: dict[str, Learnt] = {}
        try:
            answer = {each.transaction_id: learnt(each, self._participant) for each in future.result().transactions}
        except (ServiceError, grpc.FutureCancelledError):
            pass
        finally:
            self._wake(answer)  # whatever came, or nobody could ask again
        self._ask_next()

    def _wake(self, answer: dict[str, Learnt]) -> None:
        """Wakes those whose question was answered; or all, where nobody answers."""
        with self._lock:
            askers, self._asking = self._asking, ()
            if not answer:
                askers, self._next = [*askers, *self._next], []
        for asker in askers:
            asker.answer = answer
            asker.answered.set()

    def _send(self, method: Any, request: Any, propagated: Propagated) -> Any:
        """Sends a question. It outlasts the call that sends it, as others may wait for its answer."""
        self._circuit.asked()
        try:
            with propagating(Propagated(propagated.request_id, propagated.traceparent)):
                future = method.future(request, timeout=ANSWER_TIMEOUT)
        except BaseException:
            self._circuit.answered(failed=True)
            raise
        future.add_done_callback(lambda done: self._circuit.answered(failed=_failed(done)))
        return future


def _fitting(askers: Iterable[_Asker]) -> int:
    """How many of them go into one question."""
    count = size = 0
    for asker in askers:
        size += len(asker.transaction_ids)
        if count and size > wire.MAX_BATCH:
            break
        count += 1
    return count


def _wait(event: Event, seconds: float) -> None:
    """Raises as `check_active` does where the call being served is over."""
    with cancel_scope(event.set):
        event.wait(seconds)
    check_active()


def _failed(future: Any) -> bool:
    """Whether the coordinator did not answer. That it refuses is an answer."""
    try:
        future.result()
    except FailedPrecondition:
        return False
    except (ServiceError, grpc.FutureCancelledError):
        return True
    return False


def learnt(transaction: pb.Transaction, participant: str) -> Learnt:
    """What it says of this participant. A state that is not known here counts as undecided."""
    id_, loss_accepted = transaction.transaction_id, participant in transaction.loss_accepted
    match transaction.state:
        case pb.TRANSACTION_STATE_COMMITTED:
            counts = {branch.participant: branch.operation_count for branch in transaction.branches}
            return BranchDecision(id_, Outcome.COMMITTED, counts.get(participant, 0), loss_accepted)
        case pb.TRANSACTION_STATE_ABORTED:
            return BranchDecision(id_, Outcome.ABORTED, 0, loss_accepted)
        case pb.TRANSACTION_STATE_FORGOTTEN:
            return BranchDecision(id_, None, 0)
        case _:
            return None


def _unavailable(transaction_id: str) -> CoordinatorUnavailable:
    return CoordinatorUnavailable(
        f"The coordinator did not say what became of transaction {transaction_id}.", transaction_id=transaction_id
    )
