"""Notifies participants of what was decided, in the background and in batches (rule 5).

Each replica tells what it has decided itself, from memory. About once a second it also looks at the decisions in the
database for what was left, by a replica that died or because a participant was away. So nothing depends on one process,
and replicas do not repeat each other's work. Finishing is idempotent, so where two of them tell the same, that does no
harm. Each participant has a thread of its own: one that is away, or slow, delays no other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence, Set

import sqlalchemy as sa
import structlog

from handfast.client.errors import ServiceError
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now
from handfast.server.chassis.errors.mapping import cause_for_log
from handfast.server.chassis.tracing.spans import Phase, later_span
from handfast.server.transactions import wire
from handfast.server.transactions.coordinator.decision_store import DecisionRow, DecisionStore
from handfast.server.transactions.coordinator.errors import WrongParticipant
from handfast.server.transactions.core import coordinator as rules
from handfast.server.transactions.core.model import Decision
from handfast.server.transactions.crash_points import reached
from handfast.server.transactions.lost import Lost
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub

# In seconds.
GATHER = 0.05  # at the most, before a batch goes out: a large batch costs far less than many small ones
LOOK_AGAIN = 1.0  # after which to look for decisions that were left
LONGEST_WITHOUT_WHOLE_PASS = 60.0
TIMEOUT = 10.0
FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0

SHARE_OF_WHOLE_PASSES = 0.01
"""How much of the time may go to passes through all unfinished decisions, those that wait for an operator included."""
BATCH = 100
"""Decisions sent at once: few enough that other writes of the participant get their turn."""
MOST_KEPT = 10 * BATCH
"""Decisions of this replica that wait in memory. Those beyond are found in the database."""
LEFT_US = 2 * MICROSECONDS_PER_SECOND
"""At this age a decision counts as left. One that is younger is told by the replica that has made it."""

WRONG_ADDRESS = "at the address of a participant there is another one; trying again"
UNCONFIGURED = "decisions wait for a participant that is not configured"

_UNFINISHED = {
    pb.FINISH_RESULT_LOST: "a participant lost a committed change",
    pb.FINISH_RESULT_FAILED: "a participant fails to finish a transaction; its log says why",
}
_log = structlog.get_logger()


class DecisionNotifier:
    """Runs between `start` and `stop`; `decided` says that a decision was made here."""

    def __init__(
        self, decisions: DecisionStore, participants: Mapping[str, ParticipantServiceStub], clock: Clock = now
    ) -> None:
        confirmations = _Confirmations(decisions, participants.keys())
        self._decisions = decisions
        self.by_participant = {
            name: ParticipantNotifier(name, stub, decisions, confirmations, clock)
            for name, stub in participants.items()
        }

    @property
    def lost(self) -> int:
        """How many decisions some participant cannot follow, as this process has found."""
        return len({id_ for notifier in self.by_participant.values() for id_ in notifier.lost.ids})

    def unconfigured(self, connection: sa.Connection) -> Mapping[str, int]:
        """The participants that decisions wait for though they are not configured any more, each with how many. These
        decisions are kept, and hold up no others.
        """
        return self._decisions.waiting_for_others(connection, self.by_participant.keys())

    def start(self) -> None:
        with self._decisions.database.read() as connection:
            for participant, count in self.unconfigured(connection).items():
                what_to_do = (
                    f"configure it again (--participant {participant}=ADDRESS); or, if it is gone for good, end each: "
                    f"handfast transactions resolve TRANSACTION_ID --accept-loss {participant}"
                )
                _log.error(UNCONFIGURED, participant=participant, transactions=count, what_to_do=what_to_do)
        for notifier in self.by_participant.values():
            notifier.start()

    def decided(self, row: DecisionRow) -> None:
        """A decision stands, and is to be told unless it is finished."""
        if row.finish_time is None:
            for participant in row.decision.branches.keys() & self.by_participant.keys():
                self.by_participant[participant].decided(row.decision)

    def tell_all(self) -> None:
        """Has everything sent again that is not finished, what waits for an operator included."""
        for notifier in self.by_participant.values():
            notifier.tell_all()

    def stop(self, timeout: float) -> None:
        """Ends within `timeout` seconds. What is not finished then is finished by the next server that starts."""
        end = time.monotonic() + timeout
        for notifier in self.by_participant.values():
            notifier.stop()
        for notifier in self.by_participant.values():
            notifier.join(max(0.0, end - time.monotonic()))


class _Confirmations:
    """Which participants have confirmed which decisions, until those are marked as finished in the database. Kept in
    memory only: a participant that is notified again confirms again.
    """

    def __init__(self, decisions: DecisionStore, participants: Set[str]) -> None:
        self._decisions, self._participants = decisions, participants
        self._lock = threading.Lock()
        self._confirmed: dict[str, set[str]] = {}

    def missing(self, decisions: Sequence[Decision], participant: str) -> list[Decision]:
        """Those that the participant has a branch of and has not confirmed."""
        with self._lock:
            return [
                each
                for each in decisions
                if participant in each.branches and participant not in self._confirmed.get(each.transaction_id, ())
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
        """Marks those as finished that all participants have confirmed; returns whether there were any. Called in each
        pass for all that the database has as unfinished, since what cannot be stored now must be stored later.
        """
        finished = []
        with self._lock:
            for decision in decisions:
                confirmed = self._confirmed.get(decision.transaction_id, set())
                if confirmed >= rules.waits_for(decision, self._participants):
                    finished.append(decision.transaction_id)
        if finished:
            self._decisions.mark_finished(finished)
        return bool(finished)


class ParticipantNotifier(threading.Thread):
    """Notifies one participant."""

    def __init__(
        self,
        participant: str,
        stub: ParticipantServiceStub,
        decisions: DecisionStore,
        confirmations: _Confirmations,
        clock: Clock,
    ) -> None:
        super().__init__(name=f"notifier-{participant}", daemon=True)
        self._participant, self._stub = participant, stub
        self._decisions, self._confirmations, self._clock = decisions, confirmations, clock
        self.lost = Lost()
        self._woken = threading.Condition()
        self._new: list[Decision] = []  # decided here, and not told yet
        self._stopping = False
        self._everything = True  # at its start, whatever there is was left
        self._look_at = self._whole_pass_at = 0.0
        self._idle_until = ""

    def decided(self, decision: Decision) -> None:
        with self._woken:
            if len(self._new) < MOST_KEPT:
                self._new.append(decision)
            if len(self._new) in (1, BATCH):
                self._woken.notify()

    def tell_all(self) -> None:
        with self._woken:
            self._everything = True
            self._woken.notify()

    def stop(self) -> None:
        """Ends after one more pass, for what was decided meanwhile."""
        with self._woken:
            self._stopping = True
            self._woken.notify()

    def run(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            stopping = self._gather()
            try:
                self.run_once()
                backoff = FIRST_BACKOFF
            except Exception as error:
                self._log_failure(error)
                with self._woken:
                    self._woken.wait_for(lambda: self._stopping, backoff)
                backoff = min(2 * backoff, LAST_BACKOFF)
            if stopping:
                return

    def _log_failure(self, error: Exception) -> None:
        if isinstance(error, ServiceError) and error.reason == WrongParticipant.reason:
            _log.error(
                WRONG_ADDRESS,
                participant=self._participant,
                answered_by=error.metadata["participant"],
                what_to_do="correct the addresses that this server has, and start it anew; no decision is lost",
            )
        else:
            _log.warning(
                "a participant could not be notified of decisions; trying again",
                participant=self._participant,
                **cause_for_log(error),
            )

    def _gather(self) -> bool:
        """Waits until a batch is full, or some time after the first decision. Returns whether to stop. All notifiers
        go on at the same times, since those of one transaction then mark it as finished together with many others.
        """
        with self._woken:
            self._woken.wait_for(self._has_work, max(0.0, self._look_at - time.monotonic()))
            until_next_time = GATHER - time.monotonic() % GATHER
            self._woken.wait_for(lambda: len(self._new) >= BATCH or self._stopping, until_next_time)
            return self._stopping

    def _has_work(self) -> bool:
        return bool(self._new) or self._everything or self._stopping or time.monotonic() >= self._look_at

    def run_once(self) -> None:
        """One pass: tells what was decided here, and looks for what was left when it is time to."""
        with self._woken:
            new, self._new = self._new, []
        left_out: list[Decision] = []
        try:
            while new:
                self._tell(new[:BATCH])
                left_out += self._due(new[:BATCH])
                del new[:BATCH]
        finally:
            with self._woken:
                self._new = [*left_out, *new, *self._new][:MOST_KEPT]
        everything, self._everything = self._everything, False
        if everything or time.monotonic() >= self._look_at:
            try:
                self._look(everything)
            except Exception:
                self._everything |= everything
                raise
            self._look_at = time.monotonic() + LOOK_AGAIN

    def _look(self, everything: bool) -> None:
        """Goes through the unfinished decisions, the oldest first, and tells those that were left, or all. Many of them
        may be lost, and wait for an operator; most passes begin after those, or they would cost more than all the rest.
        """
        began = time.monotonic()
        whole = everything or began >= self._whole_pass_at
        if whole:
            self._idle_until = ""
        after, unfinished = self._idle_until, set[str]()
        idle = whole
        while True:
            rows = self._decisions.unfinished(after, BATCH)
            unfinished.update(row.decision.transaction_id for row in rows)
            left_before_us = self._clock() - LEFT_US
            left = [row.decision for row in rows if everything or row.decide_time < left_before_us]
            told = self._tell(left)
            if len(rows) < BATCH:
                break
            after = rows[-1].decision.transaction_id
            idle = idle and not told and len(left) == len(rows)
            if idle:
                self._idle_until = after
        if whole:
            self._confirmations.keep(unfinished)
            self.lost.keep(unfinished)
            ended = time.monotonic()
            self._whole_pass_at = ended + min((ended - began) / SHARE_OF_WHOLE_PASSES, LONGEST_WITHOUT_WHOLE_PASS)

    def _tell(self, decisions: Sequence[Decision]) -> bool:
        """Notifies the participant of those that it has not confirmed, and marks those as finished that all have.
        Returns whether there was anything to do."""
        if due := self._due(decisions):
            self._notify({decision.transaction_id: decision for decision in due})
        return self._confirmations.store(decisions) or bool(due)

    def _due(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Those that the participant has not confirmed, but for those that are lost and not to be told yet."""
        return [
            decision
            for decision in self._confirmations.missing(decisions, self._participant)
            if self._participant in decision.loss_accepted or not self.lost.waits(decision.transaction_id)
        ]

    def _notify(self, due: Mapping[str, Decision]) -> None:
        request = pb.FinishTransactionsRequest(
            decisions=[
                pb.Decision(
                    transaction_id=decision.transaction_id,
                    state=wire.STATES[decision.outcome],
                    operation_count=decision.of(self._participant).committed_count,
                    loss_accepted=self._participant in decision.loss_accepted,
                )
                for decision in due.values()
            ],
            participant=self._participant,
        )
        self._decisions.wait_until_durable(due.keys())
        reached("notifier.sending")
        with later_span("notify", Phase.DECIDE, due.keys()):
            results = self._stub.FinishTransactions(request, timeout=TIMEOUT).results
        reached("notifier.confirmed")
        # What the answer leaves out is not confirmed.
        answered = {result.transaction_id: result.result for result in results if result.transaction_id in due}
        confirmed = [due[id_] for id_, result in answered.items() if result == pb.FINISH_RESULT_CONFIRMED]
        self._confirmations.add(confirmed, self._participant)
        for id_, result in answered.items():
            if result in _UNFINISHED:
                _log.error(
                    _UNFINISHED[result],
                    participant=self._participant,
                    transaction_id=id_,
                    notified_again_after_seconds=self.lost.put_off(id_),
                )
