"""Asks the coordinator what became of a transaction. Never called inside a local transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from threading import Event
from typing import Any, Protocol

from handfast.client.errors import FailedPrecondition, Unimplemented
from handfast.client.propagation import CURRENT as PROPAGATED
from handfast.client.propagation import Propagated, propagating
from handfast.server.chassis.cancellation import cancel_scope, check_active
from handfast.server.transactions import wire
from handfast.server.transactions.core.model import BranchDecision, Decision, Learnt
from handfast.server.transactions.participant.circuit import ANSWER_TIMEOUT, Circuit, CircuitOpen
from handfast.server.transactions.participant.errors import CoordinatorUnavailable
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub

_ANSWERS = (FailedPrecondition, Unimplemented)


class Resolver(Protocol):
    def ask(self, transaction_ids: Collection[str]) -> dict[str, Learnt]:
        """What is known of each transaction. Raises CoordinatorUnavailable."""

    def abort(self, transaction_id: str) -> Learnt:
        """Aborts a transaction unless it is decided. Returns how it is decided then. Raises CoordinatorUnavailable."""

    def owner_keys(self) -> Sequence[bytes] | None:
        """The keys by which ids say whose they are, of which there are none where ids do not; or None, where the
        coordinator does not answer.
        """


class _Asker:
    """A call that waits for an answer."""

    def __init__(self, transaction_ids: Collection[str]) -> None:
        self.transaction_ids = frozenset(transaction_ids)
        self.propagated = PROPAGATED.get()
        self._answered = Event()
        self._answer: dict[str, Learnt] = {}

    def tell(self, answer: dict[str, Learnt]) -> None:
        self._answer = answer
        self._answered.set()

    def wait(self, seconds: float) -> None:
        """Raises as `check_active` does where the call being served is over."""
        with cancel_scope(self._answered.set):
            self._answered.wait(seconds)
        check_active()

    def learnt(self) -> dict[str, Learnt]:
        """Raises CoordinatorUnavailable where it was not told of each transaction."""
        if self.transaction_ids <= self._answer.keys():
            return {id_: self._answer[id_] for id_ in self.transaction_ids}
        unknown = min(self.transaction_ids)
        message = f"The coordinator did not say what became of transaction {unknown}."
        raise CoordinatorUnavailable(message, transaction_id=unknown)


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
            with suppress(CircuitOpen), self._circuit.waiting() as seconds:
                with self._lock:
                    self._next.append(asker)
                self._ask_next()
                asker.wait(seconds)
        finally:
            with self._lock:
                if asker in self._next:
                    self._next.remove(asker)
        return asker.learnt()

    def abort(self, transaction_id: str) -> Learnt:
        asker = _Asker([transaction_id])
        request = pb.RollbackTransactionRequest(transaction_id=transaction_id, abort_reason="TRANSACTION_EXPIRED")
        refused = False

        def on_answer(reply: Any, error: BaseException | None) -> None:
            nonlocal refused
            refused = isinstance(error, FailedPrecondition)  # it is committed
            asker.tell(self._learnt([reply.transaction]) if reply is not None else {})

        with suppress(CircuitOpen), self._circuit.waiting() as seconds:
            self._send(self._stub.RollbackTransaction, request, asker.propagated, on_answer)
            asker.wait(seconds)
        return (self.ask([transaction_id]) if refused else asker.learnt())[transaction_id]

    def owner_keys(self) -> Sequence[bytes] | None:
        asker = _Asker(())
        keys: Sequence[bytes] | None = None

        def on_answer(reply: Any, error: BaseException | None) -> None:
            nonlocal keys
            if reply is not None:
                keys = reply.keys
            elif isinstance(error, Unimplemented):  # an earlier version
                keys = ()
            asker.tell({})

        with suppress(CircuitOpen), self._circuit.waiting() as seconds:
            self._send(self._stub.GetOwnerKeys, pb.GetOwnerKeysRequest(), asker.propagated, on_answer)
            asker.wait(seconds)
        return keys

    def _ask_next(self) -> None:
        """Sends the next question, for as many as go into one, unless one is under way."""
        askers: list[_Asker] = []
        wanted: frozenset[str] = frozenset()
        with self._lock:
            if self._asking or not self._next:
                return
            while self._next and (not askers or len(wanted | self._next[0].transaction_ids) <= wire.MAX_BATCH):
                askers.append(self._next.pop(0))
                wanted |= askers[-1].transaction_ids
            self._asking = askers

        def on_answer(reply: Any, error: BaseException | None) -> None:
            self._wake(self._learnt(reply.transactions) if reply is not None else {})
            self._ask_next()

        request = pb.BatchGetTransactionsRequest(transaction_ids=sorted(wanted))
        self._send(self._stub.BatchGetTransactions, request, askers[0].propagated, on_answer)

    def _wake(self, answer: dict[str, Learnt]) -> None:
        """Wakes those whose question was answered; or all, where nobody answers."""
        with self._lock:
            askers, self._asking = self._asking, ()
            if not answer:
                askers, self._next = [*askers, *self._next], []
        for asker in askers:
            asker.tell(answer)

    def _send(
        self, method: Any, request: Any, propagated: Propagated, on_answer: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Sends a question, and has `on_answer` called once: with the reply, or with None and what went wrong. The
        question outlasts the call that sends it, as others may wait for its answer.
        """

        def done(future: Any) -> None:
            reply = error = None
            try:
                reply = future.result()
            except Exception as raised:
                error = raised
            # That the coordinator refuses is an answer.
            self._circuit.answered(failed=error is not None and not isinstance(error, _ANSWERS))
            on_answer(reply, error)

        self._circuit.asked()
        try:
            with propagating(Propagated(propagated.request_id, propagated.traceparent)):
                future = method.future(request, timeout=ANSWER_TIMEOUT)
        except BaseException as error:
            self._circuit.answered(failed=True)
            on_answer(None, error)
            raise
        future.add_done_callback(done)

    def _learnt(self, transactions: Iterable[pb.Transaction]) -> dict[str, Learnt]:
        return {each.transaction_id: learnt(each, self._participant) for each in transactions}


def learnt(transaction: pb.Transaction, participant: str) -> Learnt:
    """What it says of this participant. A state that is not known here counts as undecided."""
    id_, outcome = transaction.transaction_id, wire.OUTCOMES.get(transaction.state)
    if outcome is None:
        return BranchDecision(id_, None, 0) if transaction.state == pb.TRANSACTION_STATE_FORGOTTEN else None
    counts = {branch.participant: branch.operation_count for branch in transaction.branches}
    return Decision(id_, outcome, counts, loss_accepted=frozenset(transaction.loss_accepted)).of(participant)
