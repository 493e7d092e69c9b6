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

from handfast.server.chassis.crash_points import reached
from handfast.server.chassis.errors.mapping import cause_for_log
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.lost import Lost
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub

# In seconds.
GATHER = 0.02  # to wait for more decisions before a batch goes out
LOOK_AGAIN = 1.0  # after which to look for decisions that another process left
LONGEST_WITHOUT_WHOLE_PASS = 60.0
TIMEOUT = 10.0
FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0

SHARE_OF_WHOLE_PASSES = 0.01
"""How much of the time may go to passes through all that is not finished, what waits for an operator included."""
BATCH = 50
"""Decisions told at once: few enough that other writes of the participant get their turn."""

_STATES = {
    Outcome.COMMITTED: pb.TRANSACTION_STATE_COMMITTED,
    Outcome.ABORTED: pb.TRANSACTION_STATE_ABORTED,
}
_log = structlog.get_logger()


class DecisionNotifier:
    """Runs between `start` and `stop`; `wake` says that there is something to do."""

    def __init__(self, register: DecisionStore, participants: Mapping[str, ParticipantServiceStub]) -> None:
        self._register = register
        self._confirmations = _Confirmations(register, participants.keys())
        self._tellers = {
            name: _Teller(name, stub, register, self._confirmations) for name, stub in participants.items()
        }

    @property
    def participants(self) -> frozenset[str]:
        return frozenset(self._tellers)

    @property
    def lost(self) -> int:
        """How many decisions some participant cannot follow, as this process has found."""
        return len({id_ for teller in self._tellers.values() for id_ in teller.lost.ids})

    def start(self) -> None:
        for teller in self._tellers.values():
            teller.start()

    def wake(self, *, everything: bool = False) -> None:
        """`everything`: also for what waits for an operator."""
        for teller in self._tellers.values():
            if everything:
                teller.look_at_everything()
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

    def __init__(self, register: DecisionStore, participants: Set[str]) -> None:
        self._register, self._participants = register, participants
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

    def store(self, decisions: Sequence[Decision]) -> bool:
        """Marks those in the register that all have confirmed; returns whether there were any. Called in each pass for
        all that the register has as unfinished, since what cannot be stored now must be stored later.
        """
        with self._lock:
            finished = [
                decision.transaction_id
                for decision in decisions
                if self._confirmed.get(decision.transaction_id, set()) >= self._awaited(decision)
            ]
        if finished:
            self._register.mark_finished(finished)
        return bool(finished)

    def _awaited(self, decision: Decision) -> Set[str]:
        """Who has to confirm. A participant that is gone for good never will: its loss can be accepted."""
        return decision.branches.keys() - (decision.loss_accepted - self._participants)


class _Teller(threading.Thread):
    """Tells one participant."""

    def __init__(
        self, participant: str, stub: ParticipantServiceStub, register: DecisionStore, confirmations: _Confirmations
    ) -> None:
        super().__init__(name=f"finisher-{participant}", daemon=True)
        self.awake, self.stopping = threading.Event(), threading.Event()
        self._participant, self._stub = participant, stub
        self._register, self._confirmations = register, confirmations
        self.lost = Lost()
        self._idle_until = ""
        self._whole_pass_at = 0.0

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
                _log.warning(
                    "a participant could not be told of decisions; trying again",
                    participant=self._participant,
                    **cause_for_log(error),
                )
                self.stopping.wait(backoff)
                backoff = min(2 * backoff, LAST_BACKOFF)

    def _pass(self) -> None:
        """Goes through the decisions that are not finished, from the oldest on. Many of them may be lost, and wait for
        an operator; most passes begin behind those, or they would cost more than all the rest.
        """
        began = time.monotonic()
        whole = began >= self._whole_pass_at
        if whole:
            self._idle_until = ""
        after, unfinished = self._idle_until, set[str]()
        idle = whole
        while True:
            decisions = self._register.unfinished(after, BATCH)
            unfinished.update(decision.transaction_id for decision in decisions)
            due = self._due(self._confirmations.missing(decisions, self._participant))
            if due:
                self._tell(due)
            stored = self._confirmations.store(decisions)
            if len(decisions) < BATCH:
                break
            after = decisions[-1].transaction_id
            idle = idle and not due and not stored
            if idle:
                self._idle_until = after
        if whole:
            self._confirmations.keep(unfinished)
            self.lost.keep(unfinished)
            ended = time.monotonic()
            self._whole_pass_at = ended + min((ended - began) / SHARE_OF_WHOLE_PASSES, LONGEST_WITHOUT_WHOLE_PASS)

    def look_at_everything(self) -> None:
        """In the next pass."""
        self._whole_pass_at = 0.0

    def _due(self, decisions: Sequence[Decision]) -> dict[str, Decision]:
        """Without those that are lost and were told not long ago."""

        def waits(decision: Decision) -> bool:
            return self.lost.waits(decision.transaction_id) and self._participant not in decision.loss_accepted

        return {each.transaction_id: each for each in decisions if not waits(each)}

    def _tell(self, due: Mapping[str, Decision]) -> None:
        request = pb.FinishTransactionsRequest(
            decisions=[
                pb.Decision(
                    transaction_id=transaction_id,
                    state=_STATES[decision.outcome],
                    operation_count=decision.named(self._participant),
                    loss_accepted=self._participant in decision.loss_accepted,
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
                _log.error(
                    "a participant lost a committed change",
                    participant=self._participant,
                    transaction_id=id_,
                    told_again_after_seconds=self.lost.put_off(id_),
                )
