"""Builds a `google.rpc.Status` that always reaches its caller.

gRPC clients take 8 KiB of metadata by default, and lose an error that is larger. So all texts and lists have limits,
which add up to less than LIMIT, whatever a status is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from handfast.server.chassis.call import Call
from handfast.server.chassis.errors import Violation
from handfast.server.chassis.metadata import LIMIT, base64_bytes

MAX_MESSAGE = 512
"""Bytes of a message. gRPC percent-encodes them, which makes up to three of one, and sends them in the details, too."""

_MAX_NAME = 128  # bytes of a reason, a domain, a field or the reason of a violation
_MAX_TEXT = 256  # bytes of a value or of the description of a violation
_MAX_VALUES = 1024  # bytes of all values
_MAX_DETAILS = 2560  # bytes of all values and violations, and of what else a peer sent
_FRAME = 12  # bytes that a value, a violation or a detail takes beside its texts, at most
_LEFT_OUT = 48  # bytes of the violation that says how many are left out
_OTHER_ENTRIES = 320  # bytes of status, request id and keys


def room_beside(message: str, status: Status | None) -> int:
    """How many bytes of trailers fit beside the message, the status and the request id."""
    return LIMIT - _OTHER_ENTRIES - 3 * len(message.encode()) - base64_bytes(0 if status is None else status.ByteSize())


def build_status(
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
    status = Status(code=code, message=room.text(message, MAX_MESSAGE))
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
