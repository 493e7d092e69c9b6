"""Makes a `google.rpc.Status` of an exception, by AIP-193, and ends calls with it.

Every status carries one `ErrorInfo` and one `RequestInfo`, and `BadRequest` and `RetryInfo` where they apply. Of an
exception that nobody foresaw the caller learns only the request id; the log has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Never

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from handfast.chassis.v1.reasons_pb2 import Reason
from handfast.client.errors import ServiceError, unpacked
from handfast.server.chassis import errors
from handfast.server.chassis.call import Call
from handfast.server.chassis.cancellation import why_ended
from handfast.server.chassis.errors import DomainError, reason_name
from handfast.server.chassis.errors.database import database_error, failure_of
from handfast.server.chassis.errors.status import MAX_MESSAGE, build_status, cut, room_beside
from handfast.server.chassis.logs.tracebacks import described, in_one_line
from handfast.server.chassis.metadata import metadata_bytes, those_that_fit

CODES: Mapping[type[DomainError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.CallDeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.CallCancelled: grpc.StatusCode.CANCELLED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.UnknownMethod: grpc.StatusCode.UNIMPLEMENTED,
    errors.OutcomeUnknown: grpc.StatusCode.UNKNOWN,
    errors.Unforeseen: grpc.StatusCode.INTERNAL,
}
"""The status code of each kind of domain error, as `docs/errors.md` shows them; the kinds know nothing of gRPC."""

_REBUILT = frozenset(kind.DESCRIPTOR.full_name for kind in (ErrorInfo, RetryInfo, BadRequest, RequestInfo))


def end_with(error: BaseException, call: Call, context: grpc.ServicerContext) -> Never:
    """Ends the call with the status that `to_status` makes of `error`. Always raises, since that is how grpcio ends a
    call early. The request id is added to the trailers when the handler ends, as in every call."""
    code = context.code()  # type: ignore[attr-defined]  # its stubs leave it out
    if _is_grpcios(error, context):
        _shorten(call, context)
        raise error
    if isinstance(error, NotImplementedError) and code is grpc.StatusCode.UNIMPLEMENTED:
        error = unknown_method(call)  # in the contract, but the servicer leaves it to the generated class
    try:
        status = to_status(error, call)
    except Exception as failure:  # nobody foresaw that a domain error would be made wrongly
        status = to_status(failure, call)
    sent = rpc_status.to_status(status)
    room = room_beside(status.message, status) - metadata_bytes(call.trailers)
    trailers = those_that_fit(context.trailing_metadata() or (), room)
    context.set_trailing_metadata((*trailers, *sent.trailing_metadata))
    context.abort(sent.code, sent.details)


def _is_grpcios(error: BaseException, context: grpc.ServicerContext) -> bool:
    """Whether grpcio raised it, and knows how the call ends: somebody called `context.abort`, or the caller left in the
    middle of a stream. Only its own state of the call tells these from what a handler raises."""
    state: Any = context._state  # type: ignore[attr-defined]
    return (type(error) is Exception and state.aborted) or any(error is each for each in state.rpc_errors)


def _shorten(call: Call, context: Any) -> None:
    """Cuts the message and the trailers with which somebody aborted the call to what its caller takes, 8 KiB."""
    message, trailers = shortened_message(call, context), context.trailing_metadata() or ()
    kept = those_that_fit(trailers, room_beside(message, None) - metadata_bytes(call.trailers))
    if len(kept) < len(trailers):
        call.log["error.cut"] = True
    context.set_trailing_metadata(kept)


def shortened_message(call: Call, context: Any) -> str:
    """The message that a handler set beside a code. Where it is too long to arrive, it is cut, in the context, too."""
    message = (context.details() or b"").decode(errors="replace")
    short = cut(message, MAX_MESSAGE)
    if short != message:
        context.set_details(short)
        call.log["error.cut"] = True
    return short


def unknown_method(call: Call) -> errors.UnknownMethod:
    """The error for a call of a method that the server does not have."""
    name = call.path.removeprefix("/")
    return errors.UnknownMethod(f"This server has no method {name!r}.", method=name)


def to_status(error: BaseException, call: Call) -> Status:
    """The status that the caller of `call` gets for `error`. Fields for the call's line in the log go to `call.log`."""
    if isinstance(error, ServiceError) and error.status_proto is not None:
        status, message = _peers_status(error.status_proto, call), error.status_proto.message
    else:
        known = error if isinstance(error, DomainError) else _translated(error, call)
        status, message = _own_status(known, call), known.message
        if known is not error and not isinstance(known, errors.CallCancelled):
            # The operator needs the cause. A caller that left is no fault to look into.
            if isinstance(known, errors.Unforeseen):
                call.log["exception"] = described(error, call.personal_data())
            else:
                call.log["error.cause"] = in_one_line(error, call.personal_data())
    if isinstance(error, ServiceError) and error.status is grpc.StatusCode.UNAVAILABLE:
        # Our channel has tried again already. If every caller on the way did so too, the attempts would multiply.
        call.add_trailer("grpc-retry-pushback-ms", "-1")
    if "error.violations" not in call.log:  # a message of violations has paths with keys that callers made up
        personal = call.personal_data()
        call.log["error.message"] = cut(message if personal is None else personal.removed_from(message), MAX_MESSAGE)
    return status


def cause_for_log(error: BaseException) -> dict[str, Any]:
    """Fields about `error` for a line of the log that is not a call's: one line of text for a domain error, a peer's
    error or a failure of the database that the table lists, and the traceback of all others."""
    if isinstance(error, DomainError | ServiceError) or failure_of(error) is not None:
        return {"error.cause": in_one_line(error)}
    return {"exc_info": error}


def _translated(error: BaseException, call: Call) -> DomainError:
    if not isinstance(error, ServiceError):
        return database_error(error, call) or errors.Unforeseen()
    # No service answered, but gRPC itself. What it says names addresses, which are the operator's business.
    match error.status:
        case grpc.StatusCode.UNAVAILABLE:
            return errors.PeerUnavailable("A service that this one needs does not answer.")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.CallDeadlineExceeded("The time was up before a service that this one needs had answered.")
        case grpc.StatusCode.CANCELLED:
            return why_ended(call) or errors.PeerUnavailable("A service that this one needs broke off its work.")
    return errors.Unforeseen()


def _own_status(error: DomainError, call: Call) -> Status:
    code = next(CODES[ancestor] for ancestor in type(error).__mro__ if ancestor in CODES)
    delay = None
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMicroseconds(round(error.retry_after * 1e6))
    return build_status(
        call,
        code.value[0],
        error.message,
        reason=error.reason,
        domain=call.method.domain,
        values=error.values,
        retry_delay=delay,
        violations=error.violations if isinstance(error, errors.InvalidFields) else (),
    )


def _peers_status(peers: Status, call: Call) -> Status:
    """What a peer refused arrives as the peer's own error, with its domain and reason."""
    nameless = ErrorInfo(reason=reason_name(Reason, Reason.REASON_PEER_REFUSED), domain=call.method.domain)
    info = next(iter(unpacked(peers, ErrorInfo)), nameless)
    return build_status(
        call,
        peers.code,
        peers.message,
        reason=info.reason,
        domain=info.domain,
        values=info.metadata,
        retry_delay=next((each.retry_delay for each in unpacked(peers, RetryInfo)), None),
        # Several peers' may have come together.
        violations=[violation for each in unpacked(peers, BadRequest) for violation in each.field_violations],
        others=[detail for detail in peers.details if detail.TypeName() not in _REBUILT],
    )
