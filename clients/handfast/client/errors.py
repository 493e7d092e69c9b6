"""The errors that calls raise, the same from the synchronous and the asyncio client.

    grpc.RpcError
    └── ServiceError             any call that failed
        ├── InvalidArgument      the request breaks a rule; `violations` says which fields
        ├── NotFound
        ├── AlreadyExists
        ├── FailedPrecondition   the state forbids it; calling again does not help
        ├── Aborted              a conflict; calling again helps where `retryable`
        ├── OutOfRange
        ├── Unauthenticated      who calls is not known
        ├── PermissionDenied     who calls is known, and may not
        ├── ResourceExhausted    too much, of calls or of bytes
        ├── Unavailable          nobody answered, or the service cannot work now
        ├── DeadlineExceeded     the time was up; a write may or may not have happened
        ├── Cancelled
        ├── Unimplemented        the server has no such method
        ├── Internal
        ├── DataLoss
        └── Unknown
            └── OutcomeUnknown   a write may or may not have happened; `metadata["transaction_id"]` says how to ask

There is one class for each gRPC status code. Services send the details that AIP-193 describes, as a
`google.rpc.Status` in the trailer `grpc-status-details-bin`; an error without them (a refused connection, a
proxy) has an empty `service` and `reason`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import grpc

from handfast.client.failed_call import FailedCall

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message
    from google.rpc import status_pb2

_Detail = TypeVar("_Detail", bound="Message")


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One rule that one field of the request breaks.

    `field` is its path, such as `user.email`; `description` is for people; `reason` is for programs and may be empty.
    """

    field: str
    description: str
    reason: str = ""


class ServiceError(FailedCall):
    """A call failed.

    message        what went wrong, in words
    status         the gRPC status code; `code()` and `details()` give the same as any `grpc.RpcError` does
    service        who refused, such as `handfast.users` (ErrorInfo.domain)
    reason         why, as the service's contract names it, such as `EMAIL_TAKEN` (ErrorInfo.reason)
    metadata       the values that the message mentions (ErrorInfo.metadata)
    request_id     names the call in the service's logs
    violations     the fields at fault (BadRequest)
    retry_after    seconds to wait before calling again, where the service says that this helps (RetryInfo)
    status_proto   all that the service sent, or None

    It has all that `grpc.Call` and `grpc.Future` have, as gRPC's own errors do, so interceptors can look at it as at
    any call. The error that gRPC raised is its `__cause__`.
    """

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    # All but the message is optional and kept in __dict__, so that errors pickle like other exceptions.
    def __init__(
        self,
        message: str = "",
        *,
        status_proto: status_pb2.Status | None = None,
        request_id: str = "",
        initial_metadata: Iterable[tuple[str, str | bytes]] = (),
        trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
        debug_error_string: str = "",
    ) -> None:
        from google.rpc import error_details_pb2  # only now, and below, too, as most calls succeed

        super().__init__(message)
        self.message = message
        self.status_proto = status_proto
        # Annotated, as the stubs of google.rpc are not there for every caller's type checker.
        info = _detail(status_proto, error_details_pb2.ErrorInfo) or error_details_pb2.ErrorInfo()
        request_info = _detail(status_proto, error_details_pb2.RequestInfo)
        bad_request = _detail(status_proto, error_details_pb2.BadRequest)
        retry_info = _detail(status_proto, error_details_pb2.RetryInfo)
        self.service: str = info.domain
        self.reason: str = info.reason
        self.metadata: dict[str, str] = dict(info.metadata)
        self.request_id: str = request_info.request_id if request_info else request_id
        self.violations: tuple[FieldViolation, ...] = tuple(
            FieldViolation(violation.field, violation.description, violation.reason)
            for violation in (bad_request.field_violations if bad_request else ())
        )
        self.retry_after: float | None = _seconds(retry_info.retry_delay) if retry_info else None
        self._initial_metadata = tuple((key, value) for key, value in initial_metadata)
        self._trailing_metadata = tuple((key, value) for key, value in trailing_metadata)
        self._debug_error_string = debug_error_string

    @property
    def retryable(self) -> bool:
        """Whether the service says that the same call, made again after `retry_after` seconds, can succeed."""
        return self.retry_after is not None

    def code(self) -> grpc.StatusCode:
        return self.status

    def details(self) -> str:
        return self.message

    def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._initial_metadata

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:  # type: ignore[override]
        return self._trailing_metadata

    def debug_error_string(self) -> str:
        """What gRPC itself has to say of the failure, such as which connection broke; for people, in no fixed form."""
        return self._debug_error_string

    def __str__(self) -> str:
        subject = " ".join(part for part in (self.service, self.status.name, self.reason) if part)
        request = f" (request id {self.request_id})" if self.request_id else ""
        return f"{subject}: {self.message}{request}"


class InvalidArgument(ServiceError):
    status = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(ServiceError):
    status = grpc.StatusCode.NOT_FOUND


class AlreadyExists(ServiceError):
    status = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(ServiceError):
    status = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(ServiceError):
    status = grpc.StatusCode.ABORTED


class OutOfRange(ServiceError):
    status = grpc.StatusCode.OUT_OF_RANGE


class Unauthenticated(ServiceError):
    status = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(ServiceError):
    status = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhausted(ServiceError):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(ServiceError):
    status = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(ServiceError):
    status = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(ServiceError):
    status = grpc.StatusCode.CANCELLED


class Unimplemented(ServiceError):
    status = grpc.StatusCode.UNIMPLEMENTED


class Internal(ServiceError):
    status = grpc.StatusCode.INTERNAL


class DataLoss(ServiceError):
    status = grpc.StatusCode.DATA_LOSS


class Unknown(ServiceError):
    status = grpc.StatusCode.UNKNOWN


class OutcomeUnknown(Unknown):
    pass


_BY_STATUS = {error.status: error for error in ServiceError.__subclasses__()}
_OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"  # handfast.transactions.v1.Reason


def service_error(error: grpc.RpcError, request_id: str) -> ServiceError:
    """The typed error for one that gRPC raised; `request_id` is the one that was sent.

    An interceptor can raise any `grpc.RpcError`, even one that says nothing but its text.
    """
    from google.rpc import error_details_pb2

    status_proto = _status_proto(error)
    error_class = _BY_STATUS.get(_told(error, "code"), Unknown)
    info = _detail(status_proto, error_details_pb2.ErrorInfo)
    if error_class is Unknown and info and info.reason == _OUTCOME_UNKNOWN:
        error_class = OutcomeUnknown
    return error_class(
        _told(error, "details") or ("" if hasattr(error, "details") else str(error)),
        status_proto=status_proto,
        request_id=request_id,
        initial_metadata=_told(error, "initial_metadata") or (),
        trailing_metadata=_told(error, "trailing_metadata") or (),
        debug_error_string=_debug_error_string(error),
    )


def _told(error: grpc.RpcError, what: str) -> Any:
    """What the method `what` of the error gives; None where it has none."""
    method = getattr(error, what, None)
    return None if method is None else method()


def _debug_error_string(error: grpc.RpcError) -> str:
    """Where a call ends on this side, as by its `cancel()`, gRPC has none, and would wait for it without end."""
    state = getattr(error, "_state", None)
    if state is not None and getattr(state, "debug_error_string", "") is None:
        return ""
    return _told(error, "debug_error_string") or ""


def _status_proto(error: grpc.RpcError) -> status_pb2.Status | None:
    if not hasattr(error, "trailing_metadata"):
        return None
    from google.protobuf.message import DecodeError
    from grpc_status import rpc_status

    try:
        status: status_pb2.Status | None = rpc_status.from_call(error)  # type: ignore[arg-type]
    except (ValueError, DecodeError):  # something on the way changed the status: what gRPC itself says counts
        return None
    return status


def _seconds(delay: Duration) -> float:
    """Of a delay that anybody may have sent, malformed ones too: an error must not hide behind another."""
    return max(0.0, delay.seconds + delay.nanos / 1e9)


def unpacked(status_proto: status_pb2.Status, detail_class: type[_Detail]) -> list[_Detail]:
    """The details of one class, without those that cannot be read: an error must not hide behind another."""
    from google.protobuf.message import DecodeError

    details = []
    for packed in status_proto.details:
        detail = detail_class()
        try:
            if packed.Unpack(detail):
                details.append(detail)
        except DecodeError:
            continue
    return details


def _detail(status_proto: status_pb2.Status | None, detail_class: type[_Detail]) -> _Detail | None:
    return next(iter(unpacked(status_proto, detail_class)), None) if status_proto else None
