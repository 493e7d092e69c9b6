"""Why the coordinator refuses a call; each is a value of `handfast.transactions.v1.Reason`."""

from __future__ import annotations

from collections.abc import Mapping

from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND
from handfast.server.chassis.errors import Aborted, FailedPrecondition, NotFound, OutcomeUnknown, reason_name
from handfast.transactions.v1.reasons_pb2 import Reason


class NoTransactionOfRequest(NotFound):
    reason = reason_name(Reason, Reason.REASON_TRANSACTION_NOT_FOUND)

    def __init__(self, request_id: str) -> None:
        super().__init__(f"No transaction was decided for request_id {request_id}.", request_id=request_id)


class TransactionAborted(Aborted):
    reason = reason_name(Reason, Reason.REASON_TRANSACTION_ABORTED)

    def __init__(self, transaction_id: str, *, retry_after: float | None = None) -> None:
        message = f"Transaction {transaction_id} was rolled back."
        super().__init__(message, retry_after=retry_after, transaction_id=transaction_id)


class TooManyChanges(Aborted):
    reason = reason_name(Reason, Reason.REASON_TOO_MANY_CHANGES)
    retry_after = 0.1

    def __init__(self, resource: str) -> None:
        super().__init__(f"Too many calls change {resource} at the same time.", resource=resource)


class TransactionCommitted(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_TRANSACTION_COMMITTED)

    def __init__(self, transaction_id: str) -> None:
        super().__init__(f"Transaction {transaction_id} was committed.", transaction_id=transaction_id)


class CommitChanged(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_COMMIT_CHANGED)

    def __init__(self, transaction_id: str, committed: Mapping[str, int]) -> None:
        listed = _listed(committed)
        message = f"Transaction {transaction_id} was committed with other operations: {listed}."
        super().__init__(message, transaction_id=transaction_id, committed=listed)


class OperationsMissing(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_OPERATIONS_MISSING)

    def __init__(self, transaction_id: str, named: Mapping[str, int], held: Mapping[str, int]) -> None:
        listed_named, listed_held = _listed({name: named[name] for name in held}), _listed(held)
        message = (
            f"Transaction {transaction_id} cannot be committed with {listed_named}: what is staged is {listed_held}."
        )
        super().__init__(message, transaction_id=transaction_id, named=listed_named, held=listed_held)


class TransactionNotDecided(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_TRANSACTION_NOT_DECIDED)

    def __init__(self, transaction_id: str, state: str) -> None:
        message = f"Transaction {transaction_id} is {state}, so there is no decision that somebody could not follow."
        super().__init__(message, transaction_id=transaction_id, state=state)


class ClockSkew(FailedPrecondition):
    """`ahead` is how far the participant's clock is ahead of the coordinator's, in microseconds."""

    reason = reason_name(Reason, Reason.REASON_CLOCK_SKEW)

    def __init__(self, participant: str, ahead: int) -> None:
        seconds = ahead / MICROSECONDS_PER_SECOND
        apart = f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'}"
        super().__init__(
            f"The clock of {participant} is {apart} that of the coordinator, too far for transactions between them. An "
            "operator has to set the clocks.",
            participant=participant,
            ahead_seconds=f"{seconds:.1f}",
        )


class TransactionForgotten(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_TRANSACTION_FORGOTTEN)

    def __init__(self, transaction_id: str) -> None:
        message = f"Transaction {transaction_id} is older than what is remembered; whatever became of it is done."
        super().__init__(message, transaction_id=transaction_id)


class NotStaged(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_NOT_STAGED)

    def __init__(self, participant: str) -> None:
        message = f"{participant} answered a staged call without confirming that it staged it."
        super().__init__(message, participant=participant)


class WrongParticipant(FailedPrecondition):
    """`participant` is who answers instead, where that is known."""

    reason = reason_name(Reason, Reason.REASON_WRONG_PARTICIPANT)

    def __init__(self, asked: str, participant: str = "") -> None:
        message = (
            f"At the address that the coordinator has for {asked} there is {participant or 'another service'}, so "
            "nothing was done. An operator has to correct the addresses."
        )
        values = {"participant": participant} if participant else {}
        super().__init__(message, retry_after=None, asked=asked, **values)


class TransactionOutcomeUnknown(OutcomeUnknown):
    reason = reason_name(Reason, Reason.REASON_OUTCOME_UNKNOWN)

    def __init__(self, transaction_id: str) -> None:
        message = f"Whether transaction {transaction_id} was committed could not be established; ask GetTransaction."
        super().__init__(message, transaction_id=transaction_id)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{participant}: {count}" for participant, count in sorted(counts.items()))
