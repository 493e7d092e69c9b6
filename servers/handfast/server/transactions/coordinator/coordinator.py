"""A change across services, from start to decision: what an account call runs.

It takes two durable writes, one after the other, before the reply: the stages, side by side, and the decision. The
participants finish afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import grpc
import sqlalchemy as sa
import structlog
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from handfast.client import transaction_metadata
from handfast.client.errors import ServiceError
from handfast.server.chassis.call import Call, current
from handfast.server.chassis.cancellation import shield, sleep
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now
from handfast.server.chassis.data.idempotency import Identified, fingerprint
from handfast.server.chassis.data.personal_data import without_personal_data
from handfast.server.chassis.errors import DomainError, RequestIdReused, Violation, reason_name
from handfast.server.chassis.errors.database import is_undone
from handfast.server.chassis.errors.mapping import cause_for_log, to_status
from handfast.server.chassis.security.callers import on_behalf_of
from handfast.server.chassis.tracing.spans import decide_span
from handfast.server.transactions.coordinator import errors
from handfast.server.transactions.coordinator.decision_store import DecisionRow, DecisionStore
from handfast.server.transactions.coordinator.keyed_lock import KeyedLock
from handfast.server.transactions.coordinator.notifier import DecisionNotifier
from handfast.server.transactions.coordinator.owned_ids import OwnedIds
from handfast.server.transactions.coordinator.reply_store import ReplyStore, StoredReply
from handfast.server.transactions.coordinator.staging import RETRY_AFTER_SECONDS, PlannedCall, stage
from handfast.server.transactions.core import coordinator as rules
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.crash_points import reached
from handfast.transactions.v1.reasons_pb2 import Reason

Reply = TypeVar("Reply", bound=Message)

TIMEOUT_US = 5 * MICROSECONDS_PER_SECOND
"""For so long a coordinator that dies between stages and decision keeps others from writing what it had staged."""
REPEATED = "REQUEST_REPEATED"
PENDING_CHANGE = reason_name(Reason, Reason.REASON_PENDING_CHANGE)
GIVE_UP_AFTER_US = TIMEOUT_US + MICROSECONDS_PER_SECOND
"""By then what another coordinator had staged when it died is out of the way, such as a first attempt of this call."""
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 0.2
"""Before the second attempt at the most, and before any; each pauses longer by as much as the second."""
ENOUGH_SECONDS = 1.0
"""That must be left for another attempt."""
FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
    }
)
_FINAL_CODES = frozenset(code.value[0] for code in FINAL)

_log = structlog.get_logger()


class Coordinator:
    def __init__(
        self,
        decisions: DecisionStore,
        replies: ReplyStore,
        notifier: DecisionNotifier,
        locks: KeyedLock,
        ids: OwnedIds,
        clock: Clock = now,
    ) -> None:
        self._decisions, self._replies, self._notifier = decisions, replies, notifier
        self._locks, self._ids, self._clock = locks, ids, clock

    def run(
        self,
        request: Identified,
        resource: str,
        plan: Callable[[], Sequence[PlannedCall]],
        compose: Callable[[Sequence[Any], str], Reply],
        reply_type: type[Reply],
        rebuild: Callable[[Reply], Reply],
        faults: Sequence[Violation] = (),
    ) -> Reply:
        """Stages the calls of `plan`, one for each participant, and commits all of them or none.

        `compose` makes the reply from the replies of the participants and the transaction id. Changes of the same
        `resource` run one after the other. `faults` that were found in the request already are refused together with
        what the participants find. As repeats of a request id are rare, one is recognized only at the decision. The
        reply is stored without personal data, which would stay when the participants delete theirs; `rebuild` makes of
        that what a repeat is answered.

        Raises what a participant refused, in its words; TransactionAborted, with a delay, where somebody rolled the
        transaction back meanwhile; TooManyChanges; TransactionOutcomeUnknown where the decision could not be
        established.
        """
        call = current()
        owner = None if call.caller is None else on_behalf_of(call.caller)
        method = call.method.path.removeprefix("/")
        digest = fingerprint(method, request) if request.request_id else b""
        first_attempt, attempts, give_up_at_us = "", 0, self._clock() + GIVE_UP_AFTER_US
        with self._locks.holding(resource) as turn:
            while True:
                attempts += 1
                calls = plan()
                transaction_id = call.log["transaction_id"] = self._ids.mint(owner)
                first_attempt = min(first_attempt or transaction_id, transaction_id)  # the clock may have been set back
                commit = Decision(transaction_id, Outcome.COMMITTED, {each.participant: 1 for each in calls})
                answer = StoredReply(method, request.request_id, digest, transaction_id)
                try:
                    reply = self._attempt(call, commit, calls, compose, faults, answer, first_attempt, turn.follows)
                    turn.committed = commit
                    return reply
                except _AnsweredBefore as before:
                    return rebuild(_as_answered(call, before.reply, digest, reply_type))
                except Exception as error:
                    makes_way = isinstance(error, ServiceError) and error.reason == PENDING_CHANGE
                    remaining = call.remaining()
                    has_time = remaining is None or remaining > ENOUGH_SECONDS
                    if not (makes_way and has_time and self._clock() < give_up_at_us):
                        call.add_trailer(transaction_metadata.TRANSACTION_ID, transaction_id)
                        raise
                # It made way for another transaction. As it keeps its age, it is the oldest at last, and others make
                # way for it.
                sleep(random.uniform(0, min(PAUSE_SECONDS * attempts, LONGEST_PAUSE_SECONDS)))

    def _attempt(
        self,
        call: Call,
        commit: Decision,
        calls: Sequence[PlannedCall],
        compose: Callable[[Sequence[Any], str], Reply],
        faults: Sequence[Violation],
        answer: StoredReply,
        first_attempt: str,
        follows: Decision | None,
    ) -> Reply:
        """One transaction: stages it and decides `commit`, or aborts it and raises why."""
        transaction_id = commit.transaction_id
        replies: Sequence[Any] = ()
        try:
            deadline_us = self._clock() + TIMEOUT_US
            replies = stage(transaction_id, deadline_us, calls, faults, first_attempt, self._clock, follows)
            reply = compose(replies, transaction_id)
            # From here on it may be committed. A caller that loses the reply makes the call again by its request id,
            # which gRPC does by itself as long as nothing has come back; without one it can but ask by this name.
            if not answer.request_id:
                call.send_initial_metadata((transaction_metadata.TRANSACTION_ID, transaction_id))
            reached("coordinator.staged")
            stored = without_personal_data(reply).SerializeToString() if answer.request_id else None
            self._decide(commit, replace(answer, reply=stored))
            reached("coordinator.decided")
            return reply
        except _AnsweredBefore:
            raise
        except Exception as error:
            if self._abort(commit, answer, error).outcome is Outcome.ABORTED:
                raise
            return compose(replies, transaction_id)  # the database failed only after it had stored the decision

    def _abort(self, commit: Decision, answer: StoredReply, error: Exception) -> Decision:
        """Aborts for `error`, before the caller hears of it, and returns the decision that stands: where the error came
        from the database, that can be `commit`, since a decision is written once.
        """
        may_be_stored = isinstance(error, SQLAlchemyError) and not is_undone(error)
        if may_be_stored:
            cause = cause_for_log(error)
            _log.error("a decision may not have been stored", transaction_id=commit.transaction_id, **cause)
        if answer.request_id:
            answer = replace(answer, failure=_final_failure(error, current()))
        try:
            with shield():
                return self._decide(_aborted(commit, _reason(error)), answer)
        except _AnsweredBefore:
            raise
        except Exception as second:
            if may_be_stored:
                raise errors.TransactionOutcomeUnknown(commit.transaction_id) from second
            if answer.failure is not None:
                raise  # reported as final though it is not stored, it could be followed by a repeat that commits
            raise error from second

    def _decide(self, decision: Decision, answer: StoredReply) -> Decision:
        """Makes the decision durable, together with an answer that is final, and returns the decision that stands.
        Raises _AnsweredBefore, and TransactionAborted where a commit comes after an abort.
        """
        final = bool(answer.request_id) and (answer.reply is not None or answer.failure is not None)
        repeated: IntegrityError | None = None
        with decide_span(decision.transaction_id, decision.outcome.name.lower()):
            try:
                standing = self._store(decision, answer if final else None)
            except IntegrityError as error:
                repeated = error
                standing = self._store(_aborted(decision, REPEATED), None)
        if repeated or (answer.request_id and not final):
            earlier = self._replies.find(answer.method, answer.request_id)
            if earlier is not None:
                raise _AnsweredBefore(earlier)
        if repeated:
            raise repeated
        return standing

    def _store(self, decision: Decision, answer: StoredReply | None) -> Decision:
        """Raises IntegrityError, with nothing stored, where there is an answer to the request id already."""
        insert = partial(self._insert, decision=decision, answer=answer)
        row = self._decisions.database.write(insert, one_statement=answer is None)
        self._decisions.observe(row)
        self._notifier.decided(row)
        return row.decision

    def _insert(self, connection: sa.Connection, decision: Decision, answer: StoredReply | None) -> DecisionRow:
        """In a local transaction: inserts the answer and the decision."""
        if answer is not None:
            self._replies.insert(connection, answer)
        try:
            row = self._decisions.insert(connection, decision)
        except errors.TransactionForgotten:
            # Minted by a clock that is far behind. Nothing is committed below the horizon that is not decided already.
            now_us = self._clock()
            row = DecisionRow(_aborted(decision, errors.TransactionForgotten.reason), now_us, now_us)
        if rules.judge(decision, row.decision) is rules.Verdict.ABORTED_BEFORE:
            # Which takes the answer back, too.
            raise errors.TransactionAborted(decision.transaction_id, retry_after=RETRY_AFTER_SECONDS)
        return row


class _AnsweredBefore(Exception):
    """Another call with the same request id was answered first, so the transaction of this one is aborted."""

    def __init__(self, reply: StoredReply) -> None:
        self.reply = reply


def _aborted(decision: Decision, reason: str) -> Decision:
    """The same transaction, aborted."""
    return Decision(decision.transaction_id, Outcome.ABORTED, dict.fromkeys(decision.branches, 0), reason)


def _as_answered(call: Call, answer: StoredReply, digest: bytes, reply_type: type[Reply]) -> Reply:
    """What the first call with this request id was answered, as far as it is stored."""
    if answer.fingerprint != digest:
        raise RequestIdReused(answer.request_id)
    call.log["transaction_id"] = answer.transaction_id
    if answer.failure is not None:
        status = Status.FromString(answer.failure)
        call.add_trailer(transaction_metadata.TRANSACTION_ID, answer.transaction_id)
        raise ServiceError(status.message, status_proto=status)
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
