"""Tells participants what was decided, in the background and in batches (rule 5).

What is left to do is read from the register, so nothing rests with one process: the finisher of any replica, or of a
server that starts again, goes on where another stopped. Finishing is idempotent, so two of them do no harm. Each
participant is told by a thread of its own: one that is away, or slow, holds up nobody else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence, Set

import structlog

from handfast.client.errors import ServiceError
from handfast.server.chassis.crash_points import reached
from handfast.server.transactions.coordinator.register import Register
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub

# In seconds.
GATHER = 0.02  # to wait for more decisions before a batch goes out
LOOK_AGAIN = 1.0  # after which to look for decisions that another process left
LOST_AGAIN = 60.0  # after which to try again what a participant has lost
TIMEOUT = 10.0
FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0

BATCH = 50
"""Decisions told at once: few enough that other writes of the participant get their turn."""

_STATES = {
    Outcome.COMMITTED: pb.TRANSACTION_STATE_COMMITTED,
    Outcome.ABORTED: pb.TRANSACTION_STATE_ABORTED,
}
_log = structlog.get_logger()


class Finisher:
    """Runs between `start` and `stop`; `wake` says that there is something to do."""

    def __init__(self, register: Register, participants: Mapping[str, ParticipantServiceStub]) -> None:
        self._register = register
        self._confirmations = _Confirmations(register)
        self._tellers = {
            name: _Teller(name, stub, register, self._confirmations) for name, stub in participants.items()
        }

    @property
    def participants(self) -> frozenset[str]:
        return frozenset(self._tellers)

    def start(self) -> None:
        for teller in self._tellers.values():
            teller.start()

    def wake(self) -> None:
        for teller in self._tellers.values():
            teller.awake.set()

    def stop(self, timeout: float) -> None:
        """Ends within `timeout` seconds. What is not finished then, the next to start finishes."""
        end = time.monotonic() + timeout
        for teller in self._tellers.values():
            teller.stopping.set()
            teller.awake.set()
        for teller in self._tellers.values():
            teller.join(max(0.0, end - time.monotonic()))


class _Confirmations:
    """Who has confirmed what, until the register has the transaction as finished. Kept in memory only: whoever is asked
    again confirms again.
    """

    def __init__(self, register: Register) -> None:
        self._register = register
        self._lock = threading.Lock()
        self._confirmed: dict[str, set[str]] = {}

    def missing(self, decisions: Sequence[Decision], participant: str) -> list[Decision]:
        """Those that the participant has a branch of and has not confirmed."""
        with self._lock:
            return [
                decision
                for decision in decisions
                if participant in decision.branches
                and participant not in self._confirmed.get(decision.transaction_id, ())
            ]

    def keep(self, unfinished: Set[str]) -> None:
        """Forgets all others: they are marked as finished."""
        with self._lock:
            for transaction_id in self._confirmed.keys() - unfinished:
                del self._confirmed[transaction_id]

    def add(self, decisions: Sequence[Decision], participant: str) -> None:
        """The participant has confirmed these."""
        with self._lock:
            for decision in decisions:
                self._confirmed.setdefault(decision.transaction_id, set()).add(participant)

    def store(self, decisions: Sequence[Decision]) -> None:
        """Marks those in the register that all have confirmed. Called in each pass for all that the register has as
        unfinished, since what cannot be stored now must be stored later.
        """
        with self._lock:
            finished = [
                decision.transaction_id
                for decision in decisions
                if self._confirmed.get(decision.transaction_id, set()) >= decision.branches.keys()
            ]
        if finished:
            self._register.mark_finished(finished)


class _Teller(threading.Thread):
    """Tells one participant."""

    def __init__(
        self, participant: str, stub: ParticipantServiceStub, register: Register, confirmations: _Confirmations
    ) -> None:
        super().__init__(name=f"finisher-{participant}", daemon=True)
        self.awake, self.stopping = threading.Event(), threading.Event()
        self._participant, self._stub = participant, stub
        self._register, self._confirmations = register, confirmations
        self._lost: dict[str, float] = {}

    def run(self) -> None:
        backoff = FIRST_BACKOFF
        last = False
        while not last:
            self.awake.wait(LOOK_AGAIN)
            self.stopping.wait(GATHER)
            self.awake.clear()
            last = self.stopping.is_set()  # once more then, for what was decided meanwhile
            try:
                self._pass()
                backoff = FIRST_BACKOFF
            except Exception as error:
                expected = isinstance(error, ServiceError)
                _log.warning(
                    "a participant could not be told of decisions; trying again",
                    participant=self._participant,
                    error=error,
                    exc_info=not expected,
                )
                self.stopping.wait(backoff)
                backoff = min(2 * backoff, LAST_BACKOFF)

    def _pass(self) -> None:
        """Goes through all decisions that are not finished, from the oldest on."""
        after, unfinished = "", set[str]()
        while True:
            decisions = self._register.unfinished(after, BATCH)
            self._tell(self._confirmations.missing(decisions, self._participant))
            self._confirmations.store(decisions)
            unfinished.update(decision.transaction_id for decision in decisions)
            if len(decisions) < BATCH:
                self._confirmations.keep(unfinished)
                return
            after = decisions[-1].transaction_id

    def _tell(self, decisions: Sequence[Decision]) -> None:
        now = time.monotonic()
        due = {each.transaction_id: each for each in decisions if self._lost.get(each.transaction_id, now) <= now}
        if not due:
            return
        request = pb.FinishTransactionsRequest(
            decisions=[
                pb.Decision(
                    transaction_id=transaction_id,
                    state=_STATES[decision.outcome],
                    operation_count=decision.named(self._participant),
                )
                for transaction_id, decision in due.items()
            ]
        )
        reached("finisher.telling")
        results = self._stub.FinishTransactions(request, timeout=TIMEOUT).results
        reached("finisher.told")
        # Whatever it does not say is not confirmed.
        told = {result.transaction_id: result.result for result in results if result.transaction_id in due}
        confirmed = [due[id_] for id_, result in told.items() if result == pb.FINISH_RESULT_CONFIRMED]
        self._confirmations.add(confirmed, self._participant)
        for id_, result in told.items():
            if result == pb.FINISH_RESULT_LOST:
                self._lost[id_] = now + LOST_AGAIN
                _log.error("a participant lost a committed change", participant=self._participant, transaction_id=id_)
            else:
                self._lost.pop(id_, None)
