"""Makes statuses of exceptions, by AIP-193. Which code is whose stands in `errors/table.py`.

Every error carries one `ErrorInfo` and one `RequestInfo`, and `BadRequest` and `RetryInfo` where they apply. Of an
exception that nobody foresaw the caller learns the request id; the log has the rest.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from handfast.chassis.v1.reasons_pb2 import Reason
from handfast.client.errors import ServiceError, unpacked
from handfast.server.chassis import errors
from handfast.server.chassis.call import Call
from handfast.server.chassis.cancellation import why_over
from handfast.server.chassis.errors import DomainError, reason_name
from handfast.server.chassis.errors.database import database_error, failure_of
from handfast.server.chassis.errors.size import MAX_MESSAGE, cut
from handfast.server.chassis.errors.table import CODES
from handfast.server.chassis.logs.tracebacks import described, in_one_line

_REBUILT = frozenset(kind.DESCRIPTOR.full_name for kind in (ErrorInfo, RetryInfo, BadRequest, RequestInfo))


def to_status(error: BaseException, call: Call) -> Status:
    """What the caller of `call` is told of `error`, of any size. What the log should know besides is added to
    `call.log`."""
    if isinstance(error, ServiceError) and error.status_proto is not None:
        status = _peers_status(error.status_proto, call)
    else:
        known = error if isinstance(error, DomainError) else _translated(error, call)
        status = _new_status(known, call)
        if known is not error and not isinstance(known, errors.CallCancelled):
            # The operator needs the cause; of a caller that leaves there is none to look for.
            if isinstance(known, errors.Unforeseen):
                call.log["exception"] = described(error, call.personal_data())
            else:
                call.log["error.cause"] = in_one_line(error, call.personal_data())
    if isinstance(error, ServiceError) and error.status is grpc.StatusCode.UNAVAILABLE:
        # Our channel has tried again already. If every caller on the way did so too, the attempts would multiply.
        call.add_trailer("grpc-retry-pushback-ms", "-1")
    _add(status, RequestInfo(request_id=call.request_id))
    _log(status, call)
    return status


def cause_for_log(error: BaseException) -> dict[str, Any]:
    """What a line of the log that is no call's has of the error: all of one that nobody foresaw; one line of a domain
    error, a peer's, or a failure of the database that the table has.
    """
    if isinstance(error, DomainError | ServiceError) or failure_of(error) is not None:
        return {"error.cause": in_one_line(error)}
    return {"exc_info": error}


def _translated(error: BaseException, call: Call) -> DomainError:
    if isinstance(error, ServiceError):
        return _silent_peer_error(error, call)
    return database_error(error, call) or errors.Unforeseen()


def _silent_peer_error(error: ServiceError, call: Call) -> DomainError:
    """No service answered, gRPC itself did. What it says names addresses, which are the operator's business."""
    match error.status:
        case grpc.StatusCode.UNAVAILABLE:
            return errors.PeerUnavailable("A service that this one needs does not answer.")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.CallDeadlineExceeded("The time was up before a service that this one needs had answered.")
        case grpc.StatusCode.CANCELLED:
            return why_over(call) or errors.PeerUnavailable("A service that this one needs broke off its work.")
    return errors.Unforeseen()


def _new_status(error: DomainError, call: Call) -> Status:
    status = Status(code=_code_of(type(error)).value[0], message=_text(error.message))
    values = {name: _text(value) for name, value in error.values.items()}
    _add(status, ErrorInfo(reason=error.reason, domain=call.method.domain, metadata=values))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMicroseconds(round(error.retry_after * 1e6))
        _add(status, RetryInfo(retry_delay=delay))
    if isinstance(error, errors.InvalidFields):
        violations = [
            BadRequest.FieldViolation(field=_text(each.field), description=_text(each.description), reason=each.reason)
            for each in error.violations
        ]
        _add(status, BadRequest(field_violations=violations))
    return status


def _peers_status(peers: Status, call: Call) -> Status:
    """What a peer refused arrives as the peer's own error, with its domain and reason."""
    nameless = ErrorInfo(reason=reason_name(Reason, Reason.REASON_PEER_REFUSED), domain=call.method.domain)
    status = Status(code=peers.code, message=peers.message)
    _add(status, next(iter(unpacked(peers, ErrorInfo)), nameless))
    for retry_info in unpacked(peers, RetryInfo)[:1]:
        _add(status, retry_info)
    violations = [violation for each in unpacked(peers, BadRequest) for violation in each.field_violations]
    if violations:  # several peers' may have come together
        _add(status, BadRequest(field_violations=violations))
    status.details.extend(detail for detail in peers.details if detail.TypeName() not in _REBUILT)
    return status


def _code_of(error_class: type[DomainError]) -> grpc.StatusCode:
    return next(CODES[ancestor] for ancestor in error_class.__mro__ if ancestor in CODES)


def _add(status: Status, detail: Message) -> None:
    status.details.add().Pack(detail, deterministic=True)  # the same error is the same bytes, here and elsewhere


def _text(text: str) -> str:
    """`text` without surrogates, which JSON can bring in and UTF-8 cannot carry."""
    return text.encode(errors="replace").decode()


def _log(status: Status, call: Call) -> None:
    info, bad_request = ErrorInfo(), BadRequest()
    for detail in status.details:
        if not detail.Unpack(info):
            detail.Unpack(bad_request)
    call.log["error.domain"] = info.domain
    call.log["error.reason"] = info.reason
    if bad_request.field_violations:
        call.log["error.violations"] = len(bad_request.field_violations)  # paths hold keys, which callers make up
    else:
        personal = call.personal_data()
        message = status.message if personal is None else personal.removed_from(status.message)
        call.log["error.message"] = cut(message, MAX_MESSAGE)
