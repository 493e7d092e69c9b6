"""Why a participant refuses a call for the sake of a transaction."""

from __future__ import annotations

from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND
from handfast.server.chassis.errors import (
    Aborted,
    FailedPrecondition,
    ResourceExhausted,
    ResponseTooLarge,
    Unavailable,
    reason_name,
)
from handfast.server.transactions import wire
from handfast.server.transactions.core import model
from handfast.server.transactions.core.model import Branch, ResourceName
from handfast.server.transactions.core.staging import Refusal
from handfast.transactions.v1.reasons_pb2 import Reason


class PendingChange(Aborted):
    """Another transaction has an undecided change of what is written, or has read and locked it; or an older one
    waits for it.
    """

    reason = reason_name(Reason, Reason.REASON_PENDING_CHANGE)
    retry_after = 0.05

    def __init__(self, resource: str, transaction_id: str, *, is_waiting: bool = False) -> None:
        message = f"{resource} is changed or locked by transaction {transaction_id}, which is not decided yet."
        if is_waiting:
            message = f"Transaction {transaction_id}, which is older, waits for {resource}."
        super().__init__(message, resource=resource, transaction_id=transaction_id)


class ReadChanged(Aborted):
    """What a transaction has read is another by now."""

    reason = reason_name(Reason, Reason.REASON_READ_CHANGED)
    retry_after = 0.01

    def __init__(self, transaction_id: str, resource: ResourceName) -> None:
        message = f"{resource} has changed since transaction {transaction_id} has read it."
        super().__init__(message, transaction_id=transaction_id, resource=str(resource))


class TooManyReads(ResponseTooLarge):
    """What a call reads within a transaction does not fit into its trailer."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"What the call has read within its transaction takes {size} bytes of metadata; up to {limit} are sent. "
            "Read less at a time.",
            size=size,
            limit=limit,
        )


class TooManyTransactions(ResourceExhausted):
    """So many transactions are open here that no further one is."""

    reason = reason_name(Reason, Reason.REASON_TOO_MANY_TRANSACTIONS)
    retry_after = 1.0

    def __init__(self, transaction_id: str, limit: int, of: str) -> None:
        whose = "of this caller " if of == "caller" else ""
        message = f"{limit} transactions {whose}are open here, and no further one is opened until some of them end."
        super().__init__(message, transaction_id=transaction_id, limit=limit, of=of)


class CommittedChangeLost(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_COMMITTED_CHANGE_LOST)

    def __init__(self, transaction_id: str) -> None:
        message = f"Transaction {transaction_id} was committed with a change that is not here. An operator has to look."
        super().__init__(message, transaction_id=transaction_id)


class WrongParticipant(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_WRONG_PARTICIPANT)

    def __init__(self, asked: str, participant: str) -> None:
        message = f"This is {participant}, not {asked}: the caller has a wrong address."
        super().__init__(message, asked=asked, participant=participant)


class FinishingFailed(CommittedChangeLost):
    """A decided change could not be applied or dropped."""

    def __init__(self, transaction_id: str) -> None:
        message = f"Transaction {transaction_id} is decided, but finishing it here fails. An operator has to look."
        FailedPrecondition.__init__(self, message, transaction_id=transaction_id)


class BranchNotOpen(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_BRANCH_NOT_OPEN)


class TransactionForgotten(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_TRANSACTION_FORGOTTEN)


class OperationOutOfOrder(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_OPERATION_OUT_OF_ORDER)


class OperationChanged(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_OPERATION_CHANGED)


class TransactionExpired(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_TRANSACTION_EXPIRED)


class TransactionTooLarge(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_TRANSACTION_TOO_LARGE)

    def __init__(self, transaction_id: str) -> None:
        message = (
            f"Transaction {transaction_id} is too large: here it may have up to {model.MAX_OPERATIONS} operations, "
            f"which change or lock up to {model.MAX_PARTS} resources, and whose resources and replies together take up "
            f"to {model.MAX_BYTES} bytes."
        )
        super().__init__(
            message, transaction_id=transaction_id, max_operations=model.MAX_OPERATIONS, max_bytes=model.MAX_BYTES
        )


class CoordinatorUnavailable(Unavailable):
    reason = reason_name(Reason, Reason.REASON_COORDINATOR_UNAVAILABLE)
    retry_after = 0.5


def refused(refusal: Refusal, branch: Branch, number: int, now_us: int) -> FailedPrecondition:
    """The error of a staged call that the rules refuse, where `now_us` is the time by which they judged."""
    id_, server_time = branch.transaction_id, wire.format_time(now_us)
    match refusal:
        case Refusal.FORGOTTEN:
            message = f"Transaction {id_} is older than what is remembered here."
            return TransactionForgotten(message, transaction_id=id_, server_time=server_time)
        case Refusal.BRANCH_NOT_OPEN:
            message = f"Transaction {id_} takes no more operations here: its branch is {branch.state.value}."
            return BranchNotOpen(message, transaction_id=id_, state=branch.state.value)
        case Refusal.OPERATION_CHANGED:
            message = f"Operation {number} of transaction {id_} was staged with another content."
            return OperationChanged(message, transaction_id=id_, operation=number)
        case Refusal.OPERATION_OUT_OF_ORDER:
            expected = branch.staged + 1
            message = f"Operation {number} of transaction {id_} came where {expected} is the next one."
            return OperationOutOfOrder(message, transaction_id=id_, operation=number, expected=expected)
        case Refusal.TOO_LARGE:
            return TransactionTooLarge(id_)
        case Refusal.EXPIRED:
            late = (now_us - branch.deadline_us) / MICROSECONDS_PER_SECOND
            message = f"The deadline of transaction {id_} passed {late:.1f} s ago, by the clock of this server."
            return TransactionExpired(message, transaction_id=id_, server_time=server_time)
