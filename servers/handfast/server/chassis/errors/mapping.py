"""Makes a `google.rpc.Status` of an exception, by AIP-193, and ends calls with it.

Every status carries one `ErrorInfo` and one `RequestInfo`, and `BadRequest` and `RetryInfo` where they apply. Clients
lose an error that is larger than the metadata that they take. So all texts and lists of a status have limits, which add
up to less than LIMIT, whatever it is made of.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Never

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from handfast.chassis.v1.reasons_pb2 import Reason
from handfast.client.errors import ServiceError, unpacked
from handfast.server.chassis import errors
from handfast.server.chassis.call import Call
from handfast.server.chassis.cancellation import why_ended
from handfast.server.chassis.errors import DomainError, Violation, reason_name
from handfast.server.chassis.errors.database import database_error, kind_of
from handfast.server.chassis.logs.redaction import without_tokens
from handfast.server.chassis.logs.tracebacks import described, in_one_line
from handfast.server.chassis.metadata import LIMIT, base64_bytes, metadata_bytes, those_that_fit

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

_MAX_MESSAGE = 512  # bytes; gRPC percent-encodes them, up to three of one, and sends them in the details, too
_MAX_NAME = 128  # bytes of a reason, a domain, a field or the reason of a violation
_MAX_TEXT = 256  # bytes of a value or of the description of a violation
_MAX_VALUES = 1024  # bytes of all values
_MAX_DETAILS = 2560  # bytes of all values and violations, and of what else a peer sent
_FRAME = 12  # bytes that a value, a violation or a detail takes beside its texts, at most
_LEFT_OUT = 48  # bytes of the violation that says how many are left out
_OTHER_ENTRIES = 320  # bytes of status, request id and keys

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
    _clear_frames(error)
    sent = rpc_status.to_status(status)
    trailers = those_that_fit(context.trailing_metadata() or (), _room_beside(call, status.message, status))
    context.set_trailing_metadata((*trailers, *sent.trailing_metadata))
    context.abort(sent.code, sent.details)


def _clear_frames(error: BaseException) -> None:
    """A function that raises what it has in a variable is in the traceback that this leads to: a cycle, which would
    keep the request in memory until the garbage collector runs. Thousands of calls can be refused before that."""
    traceback.clear_frames(error.__traceback__)
    if error.__context__ is not None:
        traceback.clear_frames(error.__context__.__traceback__)


def _is_grpcios(error: BaseException, context: grpc.ServicerContext) -> bool:
    """Whether grpcio raised it, and knows how the call ends: somebody called `context.abort`, or the caller left in the
    middle of a stream. Only its own state of the call tells these from what a handler raises."""
    state: Any = context._state  # type: ignore[attr-defined]
    return (type(error) is Exception and state.aborted) or any(error is each for each in state.rpc_errors)


def _shorten(call: Call, context: Any) -> None:
    """Cuts the message and the trailers with which somebody aborted the call to what its caller takes, 8 KiB."""
    message, trailers = shortened_message(call, context), context.trailing_metadata() or ()
    kept = those_that_fit(trailers, _room_beside(call, message))
    if len(kept) < len(trailers):
        call.log["error.cut"] = True
    context.set_trailing_metadata(kept)


def _room_beside(call: Call, message: str, status: Status | None = None) -> int:
    """How many bytes of trailers fit beside the message, the status and the trailers of the chassis."""
    taken = 0 if status is None else base64_bytes(status.ByteSize())
    return LIMIT - _OTHER_ENTRIES - 3 * len(message.encode()) - taken - metadata_bytes(call.trailers)


def shortened_message(call: Call, context: Any) -> str:
    """The message that a handler set beside a code. Where it is too long to arrive, it is cut, in the context, too."""
    message = (context.details() or b"").decode(errors="replace")
    short = cut(message, _MAX_MESSAGE)
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
    if isinstance(error, ServiceError) and error.status_proto is not None and not _is_about_this_server(error):
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
        call.log["error.message"] = cut(message if personal is None else personal.removed_from(message), _MAX_MESSAGE)
    return status


def cause_for_log(error: BaseException) -> dict[str, Any]:
    """Fields about `error` for a line of the log that is not a call's: one line of text for a domain error, a peer's
    error or a failure of the database that the table lists, and the traceback of all others."""
    if isinstance(error, DomainError | ServiceError) or kind_of(error) is not None:
        return {"error.cause": in_one_line(error)}
    return {"exc_info": error}


def _is_about_this_server(error: ServiceError) -> bool:
    """Whether a peer did not let this server in, whoever has called it. Its caller has nothing to prove anew, and no
    scope to ask for."""
    may_not_call = (errors.ScopeMissing.reason, errors.NoPermissionDeclared.reason)
    return error.status is grpc.StatusCode.UNAUTHENTICATED or error.reason in may_not_call


def _translated(error: BaseException, call: Call) -> DomainError:
    if not isinstance(error, ServiceError):
        return database_error(error, call) or errors.Unforeseen()
    # No service answered, but gRPC itself, or one that did not let this server in. What is said names addresses or
    # scopes, which are the operator's business.
    match error.status:
        case grpc.StatusCode.UNAVAILABLE:
            return errors.PeerUnavailable("A service that this one needs does not answer.")
        case grpc.StatusCode.UNAUTHENTICATED:
            return errors.PeerUnavailable("A service that this one needs does not accept its token or certificate.")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.CallDeadlineExceeded("The time was up before a service that this one needs had answered.")
        case grpc.StatusCode.CANCELLED:
            return why_ended(call) or errors.PeerUnavailable("A service that this one needs broke off its work.")
    return errors.Unforeseen()


def code_of(error: DomainError) -> grpc.StatusCode:
    return next(CODES[ancestor] for ancestor in type(error).__mro__ if ancestor in CODES)


def _own_status(error: DomainError, call: Call) -> Status:
    delay = None
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMicroseconds(round(error.retry_after * 1e6))
    return _build_status(
        call,
        code_of(error).value[0],
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
    return _build_status(
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


def _build_status(
    call: Call,
    code: int,
    message: str,
    *,
    reason: str,
    domain: str,
    values: Mapping[str, str],
    retry_delay: Duration | None = None,
    violations: Sequence[Violation | BadRequest.FieldViolation] = (),
    others: Iterable[any_pb2.Any] = (),
) -> Status:
    """The status that the caller of `call` gets. The call's line in the log gets the fields `error.…` of it. Texts that
    are too long are cut. Where there is not room for all values, violations and `others`, the last are left out."""
    room = _Room()
    status = Status(code=code, message=room.text(message, _MAX_MESSAGE))
    info = ErrorInfo(reason=room.text(reason, _MAX_NAME), domain=room.text(domain, _MAX_NAME))
    for name, value in sorted(values.items(), key=lambda item: len(item[0]) + len(item[1])):  # short ones first
        value = room.text(value, _MAX_TEXT)
        if room.take(len(name.encode()) + len(value.encode()), leave=_MAX_DETAILS - _MAX_VALUES):
            info.metadata[name] = value
    details: list[Message] = [info]
    log: dict[str, object] = {"error.domain": info.domain, "error.reason": info.reason}
    if retry_delay is not None:
        details.append(RetryInfo(retry_delay=retry_delay))
    if violations:
        details.append(_bad_request(violations, room))
        log["error.violations"] = len(violations)
    for detail in details:
        status.details.add().Pack(detail, deterministic=True)  # the same error is the same bytes everywhere
    status.details.extend(detail for detail in others if room.take(detail.ByteSize()))
    status.details.add().Pack(RequestInfo(request_id=call.request_id))
    if room.lacked:
        log["error.cut"] = True  # the caller does not get all of it
    call.log.update(log)
    return status


def _bad_request(violations: Sequence[Violation | BadRequest.FieldViolation], room: _Room) -> BadRequest:
    """As many violations as fit, and how many do not."""
    listed = BadRequest()
    for left, each in zip(range(len(violations), 0, -1), violations, strict=True):
        violation = BadRequest.FieldViolation(
            field=room.text(each.field, _MAX_NAME),
            description=room.text(each.description, _MAX_TEXT),
            reason=room.text(each.reason, _MAX_NAME),
        )
        if not room.take(violation.ByteSize(), leave=_LEFT_OUT if left > 1 else 0):
            listed.field_violations.add(description=f"{left} more are not listed")
            break
        listed.field_violations.append(violation)
    return listed


class _Room:
    """How many bytes are left of those that a status has for its details; and whether something was `lacked`."""

    def __init__(self) -> None:
        self._left = _MAX_DETAILS
        self.lacked = False

    def text(self, text: str, limit: int) -> str:
        text = without_tokens(text)
        short = cut(text, limit)
        self.lacked |= len(short) < len(text)
        return short

    def take(self, size: int, *, leave: int = 0) -> bool:
        """Takes room for `size` bytes and their frame, where `leave` bytes stay after that."""
        if self._left - size - _FRAME < leave:
            self.lacked = True
            return False
        self._left -= size + _FRAME
        return True


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8; what is cut ends in `…`. Surrogates, which JSON can bring in and UTF-8
    cannot carry, become `?`."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - len("…".encode())].decode(errors="ignore") + "…"
