"""Tells participants what was decided, in the background and in batches (rule 5).

What is left to do is read from the register, so nothing rests with one process: the finisher of any replica, or of a
server that starts again, goes on where another stopped. Finishing is idempotent, so two of them do no harm.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import structlog

from handfast.client.errors import ServiceError
from handfast.server.transactions.coordinator.register import Register
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub

BATCH = 500
GATHER = 0.01
"""Seconds to wait for more decisions before a batch goes out."""
LOOK_AGAIN = 1.0
"""Seconds after which to look for decisions that another process left."""
TIMEOUT = 10.0

_STATES = {
    Outcome.COMMITTED: pb.TRANSACTION_STATE_COMMITTED,
    Outcome.ABORTED: pb.TRANSACTION_STATE_ABORTED,
}
_log = structlog.get_logger()


class Finisher:
    """Runs in a thread of its own between `start` and `stop`; `wake` says that there is something to do."""

    def __init__(self, register: Register, participants: Mapping[str, ParticipantServiceStub]) -> None:
        self._register, self.participants = register, participants
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._awake.set()

    def stop(self, timeout: float) -> None:
        """Finishes what is decided, as far as that goes at once, and ends."""
        self._stopping.set()
        self._awake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._awake.wait(LOOK_AGAIN)
            self._awake.clear()
            self._stopping.wait(GATHER)
            try:
                while self.finish_batch() == BATCH:
                    pass
            except Exception:
                _log.exception("finishing transactions failed; trying again")
                self._stopping.wait(LOOK_AGAIN)

    def finish_batch(self) -> int:
        """Finishes up to BATCH transactions at all their participants. Returns how many are finished now."""
        decisions = self._register.unfinished(BATCH)
        unconfirmed = self._tell(decisions)
        finished = [each.transaction_id for each in decisions if each.transaction_id not in unconfirmed]
        if finished:
            self._register.mark_finished(finished)
        return len(finished)

    def _tell(self, decisions: Sequence[Decision]) -> set[str]:
        """Tells all participants at once. Returns the transactions that one of them did not confirm."""
        unconfirmed: set[str] = set()
        calls = []
        for name, stub in self.participants.items():
            request = pb.FinishTransactionsRequest(
                decisions=[
                    pb.Decision(
                        transaction_id=decision.transaction_id,
                        state=_STATES[decision.outcome],
                        operation_count=decision.named(name),
                    )
                    for decision in decisions
                    if name in decision.branches
                ]
            )
            if request.decisions:
                calls.append((name, request, stub.FinishTransactions.future(request, timeout=TIMEOUT)))
        for decision in decisions:
            if not decision.branches.keys() <= self.participants.keys():
                _log.error("a transaction has a participant that is not configured", **_names(decision))
                unconfirmed.add(decision.transaction_id)
        for name, request, call in calls:
            try:
                results = call.result().results
            except ServiceError as error:
                _log.warning("a participant could not be told of decisions", participant=name, error=str(error))
                unconfirmed.update(decision.transaction_id for decision in request.decisions)
                continue
            for result in results:
                if result.result != pb.FINISH_RESULT_CONFIRMED:
                    _log.error(
                        "a participant lost a committed change", participant=name, transaction_id=result.transaction_id
                    )
                    unconfirmed.add(result.transaction_id)
        return unconfirmed


def _names(decision: Decision) -> dict[str, object]:
    return {"transaction_id": decision.transaction_id, "participants": sorted(decision.branches)}
