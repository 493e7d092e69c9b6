"""The errors of transactions that the client finds itself: the same as servers send, for the same reasons."""

from __future__ import annotations

from typing import TypeVar

import grpc

from handfast.client.errors import Aborted, Cancelled, FailedPrecondition, OutcomeUnknown, ServiceError, Unavailable
from handfast.client.transactions.state import NotConfirmed, ReadChanged

DOMAIN = "handfast.transactions"
AGAIN_SECONDS = 0.0
"""How long to wait before a transaction is run again that was not fast enough: whoever was faster is done."""

_Error = TypeVar("_Error", bound=ServiceError)


class TransactionMisuse(RuntimeError):
    """A transaction was used as it cannot be: outside of its block, or for a call that cannot take part. Nothing was
    sent."""


def suite_closed() -> TransactionMisuse:
    return TransactionMisuse("The suite was closed before its transaction could be committed.")


def cancelled() -> Cancelled:
    return Cancelled("The call was cancelled, as its caller or the transaction wanted it.")


def given_up(is_suite_closed: bool) -> Cancelled:
    """For a call that was under way when the transaction ended."""
    what = "suite was closed" if is_suite_closed else "transaction was rolled back"
    return Cancelled(f"The {what} while the call was under way.")


def read_changed(transaction_id: str, found: ReadChanged) -> Aborted:
    message = f"{found.resource} has changed since the transaction read it. Run the transaction again."
    metadata = {"transaction_id": transaction_id, "resource": found.resource}
    return _error(Aborted, "READ_CHANGED", message, metadata, AGAIN_SECONDS)


def not_staged(method: str, found: NotConfirmed) -> FailedPrecondition:
    says = "did not confirm" if found.confirmed is None else f"calls itself {found.confirmed}, and so did not confirm"
    message = f"The service {found.participant} {says} that {method} takes part in the transaction."
    return _error(FailedPrecondition, "NOT_STAGED", message, {"participant": found.participant})


def aborted(transaction_id: str, cause: BaseException | None) -> Aborted:
    """For what is called after `cause`, which is where it is worth to run the transaction again says so."""
    why = cause.reason or cause.status.name if isinstance(cause, ServiceError) else type(cause).__name__
    message = f"The transaction cannot be committed any more, since one of its calls failed: {why}."
    again = cause.retry_after if isinstance(cause, ServiceError) else None
    if again is None and isinstance(cause, Unavailable):
        again = AGAIN_SECONDS
    return _error(Aborted, "TRANSACTION_ABORTED", message, {"transaction_id": transaction_id}, again)


def of_write(transaction_id: str, error: Exception) -> Exception:
    """What the caller of a write is told that failed: the same for a transaction that others have rolled back as the
    commit would say."""
    if not isinstance(error, ServiceError) or error.reason != "BRANCH_NOT_OPEN":
        return error
    message = "The transaction was rolled back by an operator, or by whoever met it after its deadline."
    rolled_back = _error(Aborted, "TRANSACTION_ABORTED", message, {"transaction_id": transaction_id})
    rolled_back.__cause__ = error
    return rolled_back


def outcome_unknown(transaction_id: str) -> OutcomeUnknown:
    message = f"Whether transaction {transaction_id} was committed could not be established. Ask GetTransaction."
    return _error(OutcomeUnknown, "OUTCOME_UNKNOWN", message, {"transaction_id": transaction_id})


def code_of(error: BaseException | None) -> grpc.StatusCode:
    """Of a call that ended with this error, or without one."""
    if error is None:
        return grpc.StatusCode.OK
    return error.status if isinstance(error, ServiceError) else grpc.StatusCode.UNKNOWN


def details_of(error: BaseException | None) -> str:
    return error.message if isinstance(error, ServiceError) else str(error or "")


def _error(
    error_class: type[_Error], reason: str, message: str, metadata: dict[str, str], retry_after: float | None = None
) -> _Error:
    from google.protobuf.duration_pb2 import Duration
    from google.rpc import error_details_pb2, status_pb2

    status = status_pb2.Status(code=error_class.status.value[0], message=message)
    info = error_details_pb2.ErrorInfo(domain=DOMAIN, reason=reason, metadata=metadata)
    status.details.add().Pack(info)
    if retry_after is not None:
        delay = Duration()
        delay.FromMicroseconds(round(retry_after * 1e6))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return error_class(message, status_proto=status)
