"""The one place where exceptions become gRPC statuses, by AIP-193.

Every error carries one `ErrorInfo`, and `BadRequest`, `RetryInfo` and `RequestInfo` where they apply. Of an exception
that nobody foresaw the caller learns the request id; the log has the rest.
"""

from __future__ import annotations

import string
import traceback
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import quote, unquote_to_bytes

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from handfast.chassis.v1 import reasons_pb2
from handfast.client.errors import ServiceError
from handfast.server.chassis import errors
from handfast.server.chassis.call import Call
from handfast.server.chassis.database_errors import database_error
from handfast.server.chassis.errors import DomainError, chassis_reason

_CODES: dict[type[DomainError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.OutcomeUnknown: grpc.StatusCode.UNKNOWN,
}
_INTERNAL = chassis_reason(reasons_pb2.REASON_INTERNAL)
_PEER_UNAVAILABLE = chassis_reason(reasons_pb2.REASON_PEER_UNAVAILABLE)
_INTERNAL_MESSAGE = "Internal error; quote the request id to the operator."

# gRPC clients take 8 KiB of metadata by default and drop all of what is larger. The status travels in base64, and
# its message once more beside it, percent-encoded.
_MAX_STATUS = 4096
_MAX_MESSAGE = 1024
_MAX_VALUE = 256
_VIOLATION_FRAME = 16
_UNESCAPED = string.punctuation.replace("%", "") + " "


def to_status(error: BaseException, call: Call) -> status_pb2.Status:
    """What the caller of `call` is told of `error`. What the log should know besides is added to `call.log`."""
    known = error if isinstance(error, DomainError | ServiceError) else database_error(error)
    if isinstance(known, ServiceError):
        status = _peer_status(known, call)
        if known.status is grpc.StatusCode.UNAVAILABLE:
            # Our channel has tried again already. If every caller on the way did so too, the attempts would multiply.
            call.add_trailer("grpc-retry-pushback-ms", "-1")
    elif known is not None:
        status = _domain_status(known, call)
    else:
        status = _new_status(grpc.StatusCode.INTERNAL, _INTERNAL_MESSAGE, _INTERNAL, call.method.domain)
    if known is not error:  # not foreseen, or the database's: the operator needs the cause
        call.log["exception"] = "".join(traceback.format_exception(error))
    _add(status, error_details_pb2.RequestInfo(request_id=call.request_id))
    _log(status, call)
    return status


def _domain_status(error: DomainError, call: Call) -> status_pb2.Status:
    info = {name: _cut(value, _MAX_VALUE) for name, value in error.values.items()}
    status = _new_status(_code_of(type(error)), error.message, error.reason, call.method.domain, info)
    if error.retry_after is not None:
        _add(status, _retry_info(error.retry_after))
    if isinstance(error, errors.InvalidFields):
        _add_violations(status, error.violations)
    return status


def _peer_status(error: ServiceError, call: Call) -> status_pb2.Status:
    """What a peer refused arrives as the peer's own error, with its domain and reason."""
    if error.status_proto is None:
        return _silent_peer_status(error, call)
    peers = error.status_proto
    status = status_pb2.Status(code=peers.code, message=_cut(peers.message, _MAX_MESSAGE))
    bad_request = error_details_pb2.BadRequest()
    for detail in peers.details:
        # Ours names the call instead; and several peers' violations may have come together.
        if not detail.Unpack(error_details_pb2.RequestInfo()) and not detail.Unpack(bad_request):
            status.details.append(detail)
    if bad_request.field_violations:
        _add_violations(status, bad_request.field_violations)
    return status


def _silent_peer_status(error: ServiceError, call: Call) -> status_pb2.Status:
    """No service answered, gRPC itself did. What it says names addresses, which are the operator's business."""
    call.log["exception"] = "".join(traceback.format_exception(error))
    domain = call.method.domain
    match error.status:
        case grpc.StatusCode.UNAVAILABLE:
            message = "A service that this one needs does not answer."
            status = _new_status(grpc.StatusCode.UNAVAILABLE, message, _PEER_UNAVAILABLE, domain)
            _add(status, _retry_info(1.0))
            return status
        case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.CANCELLED:
            late = errors.CallDeadlineExceeded("The time was up before a service that this one needs had answered.")
            return _domain_status(late, call)
    return _new_status(grpc.StatusCode.INTERNAL, _INTERNAL_MESSAGE, _INTERNAL, domain)


def _code_of(error_class: type[DomainError]) -> grpc.StatusCode:
    return next(_CODES[ancestor] for ancestor in error_class.__mro__ if ancestor in _CODES)


def _new_status(
    code: grpc.StatusCode, message: str, reason: str, domain: str, metadata: dict[str, str] | None = None
) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=_cut(message, _MAX_MESSAGE))
    _add(status, error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata))
    return status


def _add(status: status_pb2.Status, detail: Message) -> None:
    status.details.add().Pack(detail)


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMicroseconds(round(seconds * 1e6))
    return error_details_pb2.RetryInfo(retry_delay=delay)


class _Violation(Protocol):
    @property
    def field(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def reason(self) -> str: ...


def _add_violations(status: status_pb2.Status, violations: Sequence[_Violation]) -> None:
    """As many as fit, and how many did not."""
    room = _MAX_STATUS - status.ByteSize()
    detail = error_details_pb2.BadRequest()
    for listed, violation in enumerate(violations):
        field = _cut(violation.field, _MAX_VALUE)
        description = _cut(violation.description, _MAX_VALUE)
        room -= len((field + description + violation.reason).encode()) + _VIOLATION_FRAME
        if room < 0:
            detail.field_violations.add(description=f"{len(violations) - listed} more are not listed")
            break
        detail.field_violations.add(field=field, description=description, reason=violation.reason)
    _add(status, detail)


def _cut(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of percent-encoding, which is how gRPC sends a message."""
    if len(text) * 9 <= limit or len(quote(text, safe=_UNESCAPED)) <= limit:
        return text
    kept = quote(text, safe=_UNESCAPED)[: limit - len(quote("…"))]
    kept = kept.rsplit("%", 1)[0] if "%" in kept[-2:] else kept
    return unquote_to_bytes(kept).decode(errors="ignore") + "…"


def _log(status: status_pb2.Status, call: Call) -> None:
    info = error_details_pb2.ErrorInfo()
    if any(detail.Unpack(info) for detail in status.details):
        call.log["error.domain"] = info.domain
        call.log["error.reason"] = info.reason
    bad_request = error_details_pb2.BadRequest()
    if any(detail.Unpack(bad_request) for detail in status.details):
        call.log["error.violations"] = len(bad_request.field_violations)  # paths hold keys, which callers make up
    else:
        call.log["error.message"] = status.message
