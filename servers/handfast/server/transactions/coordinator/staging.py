"""Sends the staged calls of a transaction side by side, and makes one error of what was refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from handfast.client import transaction_metadata
from handfast.client.begun_call import begin
from handfast.client.errors import ServiceError, Unimplemented
from handfast.server.chassis.cancellation import check_active, wait_for
from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.errors import DomainError, InvalidFields, Violation, reason_name
from handfast.server.transactions import wire
from handfast.server.transactions.coordinator.errors import (
    ClockSkew,
    NotStaged,
    TransactionAborted,
    WrongParticipant,
)
from handfast.server.transactions.core.model import Decision
from handfast.transactions.v1.reasons_pb2 import Reason

RETRY_AFTER_SECONDS = 0.05
_ABOUT_THE_TRANSACTION = frozenset(
    reason_name(Reason, value)
    for value in (
        Reason.REASON_BRANCH_NOT_OPEN,
        Reason.REASON_TRANSACTION_EXPIRED,
        Reason.REASON_TRANSACTION_FORGOTTEN,
        Reason.REASON_TRANSACTION_FROM_FUTURE,
    )
)

_FAR_AHEAD_US = wire.MAX_CLOCK_SKEW_US // 2
"""By how much a participant's clock may be ahead before it is to blame for what expires there: with less, it
was the call that took its time.
"""


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A call to stage: a stub's method and its request, at a participant.

    For what is refused: `renamed` says how fields of this request are called in the request that the caller sent, and
    `explain` may put another error in the place of the participant's.
    """

    participant: str
    method: Any  # grpc.UnaryUnaryMultiCallable, which is generic in its stubs only
    request: Message
    renamed: Mapping[str, str] = field(default_factory=dict)
    explain: Callable[[ServiceError], Exception] | None = None


def stage(
    transaction_id: str,
    deadline_us: int,
    calls: Sequence[PlannedCall],
    faults: Sequence[Violation] = (),
    first_attempt: str = "",
    clock: Clock = now,
    follows: Decision | None = None,
) -> list[Any]:
    """Returns all replies, in the order of the calls, or raises one error. Each participant has one call, so each is
    operation 1 of its branch. With `faults` of the request it always raises, and what the participants find as well.
    `deadline_us` is by the `clock`. `follows` was committed just now with such calls, so participants may not have
    finished it: they are told, and need not ask what became of it.
    """
    metadata = wire.stage_metadata(transaction_id, 1, deadline_us, first_attempt)
    followed: dict[str, tuple[tuple[str, str], ...]] = {}
    if follows is not None:
        followed = dict.fromkeys(follows.branches, ((transaction_metadata.FOLLOWS, follows.transaction_id),))
    begun = [begin(call.method, call.request, metadata=metadata + followed.get(call.participant, ())) for call in calls]
    replies: list[Any] = []
    refused: list[Exception] = []
    for call, each in zip(calls, begun, strict=True):
        try:
            reply = wait_for(each)
            confirmed = dict(each.trailing_metadata()).get(transaction_metadata.STAGED)
            if confirmed is None:
                raise NotStaged(call.participant)
            if confirmed != call.participant:
                raise WrongParticipant(call.participant, str(confirmed))
            replies.append(reply)
        except Unimplemented:
            refused.append(WrongParticipant(call.participant))
        except ServiceError as error:
            if error.reason in _ABOUT_THE_TRANSACTION:
                refused.append(_not_in_time(error, call.participant, transaction_id, deadline_us, clock()))
            else:
                refused.append(_in_the_callers_words(error, call))
        except DomainError as error:  # not staged, or nobody waits for this call any more
            refused.append(error)
    if faults or refused:
        raise _one_error(refused, faults)
    check_active()
    return replies


def _one_error(refused: Sequence[Exception], faults: Sequence[Violation]) -> Exception:
    """The first in the order of the calls; but where all find fault with fields, all the faults."""
    found = [violation for error in refused for violation in _violations(error)]
    if faults:
        theirs = [Violation(violation.field, violation.description, violation.reason) for violation in found]
        return InvalidFields(list(dict.fromkeys((*faults, *theirs))))
    first = refused[0]
    if isinstance(first, ServiceError) and all(_violations(error) for error in refused):
        return _with_violations(first, list({(each.field, each.description): each for each in found}.values()))
    return first


def _not_in_time(
    error: ServiceError, participant: str, transaction_id: str, deadline_us: int, now_us: int
) -> Exception:
    """That the transaction did not come through in time is not the request's fault, and another one may. But not while
    the clocks are so far apart that its time is up before it begins, or seems to be yet to come.
    """
    if server_time := error.metadata.get("server_time"):
        ahead = wire.parse_time(server_time) - now_us
        match error.reason:
            case "TRANSACTION_FROM_FUTURE":
                apart = True
            case "TRANSACTION_EXPIRED":
                apart = now_us < deadline_us and ahead > _FAR_AHEAD_US
            case _:
                apart = abs(ahead) > wire.MAX_CLOCK_SKEW_US
        if apart:
            return ClockSkew(participant, ahead)
    return TransactionAborted(transaction_id, retry_after=RETRY_AFTER_SECONDS)


def _in_the_callers_words(error: ServiceError, call: PlannedCall) -> Exception:
    if call.explain is not None:
        return call.explain(error)
    violations = _violations(error)
    for violation in violations:
        violation.field = call.renamed.get(violation.field, violation.field)
    return _with_violations(error, violations) if violations else error


def _violations(error: Exception) -> list[BadRequest.FieldViolation]:
    bad_request = BadRequest()
    if isinstance(error, ServiceError) and error.status_proto is not None:
        any(detail.Unpack(bad_request) for detail in error.status_proto.details)
    return list(bad_request.field_violations)


def _with_violations(error: ServiceError, violations: Sequence[BadRequest.FieldViolation]) -> ServiceError:
    """The same error about these fields."""
    status = Status()
    status.MergeFrom(error.status_proto or Status())
    status.message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
    for detail in status.details:
        if detail.Unpack(BadRequest()):
            detail.Pack(BadRequest(field_violations=violations))
    return type(error)(status.message, status_proto=status)
