"""Why a participant refuses a call for the sake of a transaction."""

from __future__ import annotations

from handfast.server.chassis.errors import Aborted, FailedPrecondition, Unavailable, reason_name
from handfast.server.transactions.core.participant import Refusal
from handfast.transactions.v1 import reasons_pb2 as reasons


def _reason(value: reasons.Reason.ValueType) -> str:
    return reason_name(reasons.Reason.Name(value))


class PendingChange(Aborted):
    """Another transaction has an undecided change of the resource."""

    reason = _reason(reasons.REASON_PENDING_CHANGE)
    retry_after = 0.05

    def __init__(self, resource: str, transaction_id: str) -> None:
        message = f"{resource} has a change of transaction {transaction_id}, which is not decided yet."
        super().__init__(message, resource=resource, transaction_id=transaction_id)


class BranchNotOpen(FailedPrecondition):
    reason = _reason(reasons.REASON_BRANCH_NOT_OPEN)


class OperationOutOfOrder(FailedPrecondition):
    reason = _reason(reasons.REASON_OPERATION_OUT_OF_ORDER)


class OperationChanged(FailedPrecondition):
    reason = _reason(reasons.REASON_OPERATION_CHANGED)


class TransactionExpired(FailedPrecondition):
    reason = _reason(reasons.REASON_TRANSACTION_EXPIRED)


class CoordinatorUnavailable(Unavailable):
    reason = _reason(reasons.REASON_COORDINATOR_UNAVAILABLE)
    retry_after = 0.5


def refused(refusal: Refusal, transaction_id: str, number: int) -> FailedPrecondition:
    """The error of a staged call that the rules do not admit."""
    match refusal:
        case Refusal.BRANCH_NOT_OPEN:
            return BranchNotOpen(
                f"Transaction {transaction_id} takes no more operations here.", transaction_id=transaction_id
            )
        case Refusal.OPERATION_CHANGED:
            return OperationChanged(
                f"Operation {number} of transaction {transaction_id} was staged with another content.",
                transaction_id=transaction_id,
                operation=number,
            )
        case Refusal.OPERATION_OUT_OF_ORDER:
            return OperationOutOfOrder(
                f"Operation {number} of transaction {transaction_id} is not the next one of its branch.",
                transaction_id=transaction_id,
                operation=number,
            )
        case Refusal.EXPIRED:
            return TransactionExpired(
                f"The deadline of transaction {transaction_id} has passed.", transaction_id=transaction_id
            )
