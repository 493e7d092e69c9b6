"""A change across services, from start to decision: what an account call runs.

It is two durable writes one after the other before the reply: the stages, side by side, and the decision. The
participants finish afterwards.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

import grpc
import sqlalchemy as sa
import structlog
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from sqlalchemy.exc import SQLAlchemyError

from handfast.client.errors import ServiceError
from handfast.server.chassis.call import Call, current
from handfast.server.chassis.cancellation import check_active, shield, sleep
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now
from handfast.server.chassis.data.idempotency import Identified
from handfast.server.chassis.errors import DomainError, RequestIdReused, Violation, reason_name
from handfast.server.chassis.errors.mapping import cause_for_log, to_status
from handfast.server.chassis.ids import new_id
from handfast.server.chassis.requests.fingerprint import fingerprint
from handfast.server.transactions import wire
from handfast.server.transactions.coordinator.decision_store import DecisionRow, DecisionStore
from handfast.server.transactions.coordinator.errors import (
    TransactionAborted,
    TransactionForgotten,
    TransactionOutcomeUnknown,
)
from handfast.server.transactions.coordinator.keyed_lock import KeyedLock
from handfast.server.transactions.coordinator.notifier import DecisionNotifier
from handfast.server.transactions.coordinator.reply_store import ReplyStore, StoredReply
from handfast.server.transactions.coordinator.staging import RETRY_AFTER, PlannedCall, stage
from handfast.server.transactions.core import coordinator as rules
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.crash_points import reached
from handfast.transactions.v1.reasons_pb2 import Reason

Reply = TypeVar("Reply", bound=Message)

TIMEOUT = 5 * MICROSECONDS_PER_SECOND
"""For so long a coordinator that dies between stages and decision keeps others from writing what it had staged."""
REPEATED = "REQUEST_REPEATED"
FORGOTTEN = TransactionForgotten.reason
PENDING_CHANGE = reason_name(Reason, Reason.REASON_PENDING_CHANGE)
ATTEMPTS = 10
PAUSE = 0.02
"""Seconds before the second attempt at the most; each further one may pause longer by as much."""
ENOUGH_TIME = 1.0
"""Seconds that must be left for another attempt."""
FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
_FINAL_CODES = frozenset(code.value[0] for code in FINAL)

_log = structlog.get_logger()


class Coordinator:
    def __init__(
        self,
        register: DecisionStore,
        answers: ReplyStore,
        finisher: DecisionNotifier,
        turns: KeyedLock,
        clock: Clock = now,
    ) -> None:
        self._register, self._answers, self._finisher = register, answers, finisher
        self._turns, self._clock = turns, clock

    def run(
        self,
        request: Identified,
        resource: str,
        plan: Callable[[], Sequence[PlannedCall]],
        compose: Callable[[Sequence[Any], str], Reply],
        reply_type: type[Reply],
        faults: Sequence[Violation] = (),
    ) -> Reply:
        """Stages the calls of `plan`, one for each participant, and commits them all or none. `compose` makes the
        reply of their replies and the transaction id. Changes of the same `resource` take turns. `faults` that were
        found in the request already are refused together with what the participants find. A repeat of a request id is
        answered as the first call was; as repeats are rare, that it is one shows only at the decision.

        Raises what a participant refused, as it put it; TransactionAborted, with a delay, where somebody rolled the
        transaction back meanwhile; TooManyChanges; TransactionOutcomeUnknown where the decision could not be
        established.
        """
        with self._turns.of(resource):
            return self._run(request, plan, compose, reply_type, faults)

    def _run(
        self,
        request: Identified,
        plan: Callable[[], Sequence[PlannedCall]],
        compose: Callable[[Sequence[Any], str], Reply],
        reply_type: type[Reply],
        faults: Sequence[Violation],
    ) -> Reply:
        call = current()
        method = call.method.path.removeprefix("/")
        digest = fingerprint(method, request)
        first_attempt = ""
        for attempt in itertools.count(1):
            calls = plan()
            transaction_id = new_id()
            first_attempt = min(first_attempt or transaction_id, transaction_id)  # the clock may have been set back
            call.log["transaction_id"] = transaction_id
            staged = stage(transaction_id, self._clock() + TIMEOUT, calls, faults, first_attempt, self._clock)
            answer = StoredReply(method, request.request_id, digest, transaction_id)
            commit = Decision(transaction_id, Outcome.COMMITTED, {each.participant: 1 for each in calls})
            if staged.error is None or not _makes_way(staged.error) or not _has_time(call, attempt):
                break
            # It made way for another transaction. As it keeps its age, it is the oldest at last, and others make way.
            standing = self._roll_back(commit, staged.error, answer)
            self._finisher.wake()
            if isinstance(standing, StoredReply):
                return _as_answered(call, standing, digest, reply_type)
            sleep(random.uniform(0, PAUSE * attempt))
        error = staged.error
        try:
            if error is None:
                # From here on it may be committed, so a caller that loses the reply should know its name.
                call.send_initial_metadata((wire.TRANSACTION_ID, transaction_id))
                reached("coordinator.staged")
                try:
                    reply = compose(staged.replies, transaction_id)
                    standing = self._decide(commit, replace(answer, reply=reply.SerializeToString()))
                    reached("coordinator.decided")
                except Exception as failed:
                    error = failed
            if error is not None:
                standing = self._roll_back(commit, error, answer)
        finally:
            self._finisher.wake()
        if isinstance(standing, StoredReply):
            return _as_answered(call, standing, digest, reply_type)
        if standing.outcome is Outcome.COMMITTED:
            return reply
        call.add_trailer(wire.TRANSACTION_ID, transaction_id)
        raise error or TransactionAborted(transaction_id, retry_after=RETRY_AFTER)

    def _roll_back(self, commit: Decision, error: Exception, answer: StoredReply) -> StoredReply | Decision:
        """Aborts for `error`, before the caller hears of it. Where the error came from the database, `commit` may be
        stored all the same: the register can be written once, so who aborts learns.
        """
        if isinstance(error, SQLAlchemyError):
            _log.error(
                "a decision may not have been stored", transaction_id=commit.transaction_id, **cause_for_log(error)
            )
        failure = _final_failure(error, current())
        try:
            with shield():
                return self._decide(_abort(commit, _reason(error)), replace(answer, failure=failure))
        except Exception as second:
            if isinstance(error, SQLAlchemyError):
                raise TransactionOutcomeUnknown(commit.transaction_id) from second
            if answer.request_id and failure is not None:
                raise  # told as final though it is not kept, it could be followed by a repeat that commits
            raise error from second

    def _decide(self, decision: Decision, answer: StoredReply) -> StoredReply | Decision:
        """Makes the decision durable, together with the answer. Returns the decision that stands; or where another call
        with the same request id was answered first, that answer.
        """
        given, recorded = self._register.database.write(lambda connection: self._insert(connection, decision, answer))
        self._register.observe(recorded)
        return given

    def _insert(
        self, connection: sa.Connection, decision: Decision, answer: StoredReply
    ) -> tuple[StoredReply | Decision, DecisionRow]:
        if answer.request_id:
            first = self._answers.insert(connection, answer) if answer.final else None
            first = first or self._answers.look(connection, answer)
            if first is not None and first is not answer:
                return first, self._standing(connection, _abort(decision, REPEATED))
        recorded = self._standing(connection, decision)
        if rules.judge(decision, recorded.decision) is rules.Verdict.ABORTED_BEFORE:
            raise TransactionAborted(decision.transaction_id, retry_after=RETRY_AFTER)  # and its answer goes, too
        if decision.outcome is Outcome.COMMITTED:
            check_active()
        return recorded.decision, recorded

    def _standing(self, connection: sa.Connection, decision: Decision) -> DecisionRow:
        """The decision that stands once this one is inserted where none is."""
        try:
            return self._register.insert(connection, decision)
        except TransactionForgotten:
            # Minted by a clock that is far behind. Nothing is committed below the horizon that is not decided already.
            now = self._clock()
            return DecisionRow(_abort(decision, FORGOTTEN), now, now)


def _makes_way(error: Exception) -> bool:
    return isinstance(error, ServiceError) and error.reason == PENDING_CHANGE


def _has_time(call: Call, attempt: int) -> bool:
    remaining = call.remaining()
    return attempt < ATTEMPTS and (remaining is None or remaining > ENOUGH_TIME)


def _abort(decision: Decision, reason: str) -> Decision:
    """Instead of `decision`."""
    return Decision(decision.transaction_id, Outcome.ABORTED, dict.fromkeys(decision.branches, 0), reason)


def _as_answered(call: Call, answer: StoredReply, digest: bytes, reply_type: type[Reply]) -> Reply:
    """What the first call with this request id was answered."""
    if answer.fingerprint != digest:
        raise RequestIdReused(answer.request_id)
    call.log["transaction_id"] = answer.transaction_id
    if answer.failure is not None:
        status = Status.FromString(answer.failure)
        call.add_trailer(wire.TRANSACTION_ID, answer.transaction_id)
        raise ServiceError(status.message, status_proto=status)
    call.send_initial_metadata((wire.TRANSACTION_ID, answer.transaction_id))
    return reply_type.FromString(answer.reply or b"")


def _reason(error: Exception) -> str:
    """Why a transaction is aborted, for operators."""
    reason = error.reason if isinstance(error, ServiceError | DomainError) else ""
    return reason or type(error).__name__


def _final_failure(error: Exception, call: Call) -> bytes | None:
    """The serialized status of a refusal that stands; None where calling again can help, or where nobody refused."""
    if isinstance(error, DomainError):
        not_ended = copy(call)  # as the call has not ended with it yet, its log stays as it is
        not_ended.log = {}
        status = to_status(error, not_ended)
        error = ServiceError(status_proto=status)
    elif isinstance(error, ServiceError) and error.status_proto:
        status = error.status_proto
    else:
        return None
    return status.SerializeToString() if status.code in _FINAL_CODES and not error.retryable else None
