"""Builds a `google.rpc.Status` that always reaches its caller.

gRPC clients take 8 KiB of metadata by default, and lose an error that is larger. So all texts and lists have limits,
which add up to less than LIMIT, whatever a status is made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo
from google.rpc.status_pb2 import Status

from handfast.server.chassis.call import Call
from handfast.server.chassis.errors import ResponseTooLarge, Violation

LIMIT = 7 * 1024
"""Bytes of metadata that an error has at most, counted as HTTP/2 does (RFC 9113, 6.5.2). The rest of the 8 KiB is for
what gRPC and proxies add."""

ENTRY_BYTES = 32
"""Bytes that HTTP/2 counts for each entry of metadata beside its key and value."""

MAX_MESSAGE = 512
"""Bytes of a message. gRPC percent-encodes them, which makes up to three of one, and sends them in the details, too."""

_MAX_NAME = 128  # bytes of a reason, a domain, a field or the reason of a violation
_MAX_TEXT = 256  # bytes of a value or of the description of a violation
_MAX_VALUES = 1024  # bytes of all values
_MAX_DETAILS = 2560  # bytes of all values and violations, and of what else a peer sent
_FRAME = 12  # bytes that a value, a violation or a detail takes beside its texts, at most
_LEFT_OUT = 48  # bytes of the violation that says how many are left out
_OTHER_ENTRIES = 320  # bytes of status, request id and keys
_KEY = re.compile(r"[0-9a-z_.-]+")
_TEXT = re.compile(rb"[ -~]*")
_OURS = ("handfast-", "grpc-")

Trailers = Sequence[tuple[str, str | bytes]]


class StatusBuilder:
    """Makes one status. Texts that are too long are cut, and what there is no room for is left out: values, violations
    and others, in the order in which they are added."""

    def __init__(self, code: int, message: str) -> None:
        self._room = _MAX_DETAILS
        self._cut = False
        self._log: dict[str, object] = {}
        self._status = Status(code=code, message=self._text(message, MAX_MESSAGE))

    def add(self, detail: Message) -> None:
        """Adds a detail that is small."""
        self._status.details.add().Pack(detail, deterministic=True)  # the same error is the same bytes everywhere

    def add_info(self, reason: str, domain: str, values: Mapping[str, str]) -> None:
        """Who refused and why, and the values that fit, short ones first."""
        info = ErrorInfo(reason=self._text(reason, _MAX_NAME), domain=self._text(domain, _MAX_NAME))
        rest = self._room - _MAX_VALUES
        for name, value in sorted(values.items(), key=lambda item: len(item[0]) + len(item[1])):
            value = self._text(value, _MAX_TEXT)
            if self._take(len(name.encode()) + len(value.encode()) + _FRAME, rest):
                info.metadata[name] = value
        self.add(info)
        self._log |= {"error.domain": info.domain, "error.reason": info.reason}

    def add_violations(self, violations: Sequence[Violation | BadRequest.FieldViolation]) -> None:
        """As many violations as fit, and how many do not."""
        if not violations:
            return
        listed = BadRequest()
        for number, each in enumerate(violations):
            violation = BadRequest.FieldViolation(
                field=self._text(each.field, _MAX_NAME),
                description=self._text(each.description, _MAX_TEXT),
                reason=self._text(each.reason, _MAX_NAME),
            )
            is_last = number == len(violations) - 1
            if not self._take(violation.ByteSize() + _FRAME, 0 if is_last else _LEFT_OUT):
                listed.field_violations.add(description=f"{len(violations) - number} more are not listed")
                break
            listed.field_violations.append(violation)
        self.add(listed)
        self._log["error.violations"] = len(violations)

    def add_others(self, details: Iterable[any_pb2.Any]) -> None:
        """What else a peer sent, as far as it fits."""
        for detail in details:
            if self._take(detail.ByteSize() + _FRAME, 0):
                self._status.details.append(detail)

    def finish(self, call: Call) -> Status:
        """The status, with the request id of `call`, whose line in the log learns of it (`error.…`)."""
        self.add(RequestInfo(request_id=call.request_id))
        call.log.update(self._log)
        if self._cut:
            call.log["error.cut"] = True  # the caller does not get all of it
        return self._status

    def _text(self, text: str, limit: int) -> str:
        short = cut(text, limit)
        self._cut |= len(short) < len(text)
        return short

    def _take(self, size: int, rest: int) -> bool:
        """Takes `size` bytes of the room where that leaves `rest` bytes of it."""
        if self._room - size < rest:
            self._cut = True
            return False
        self._room -= size
        return True


def trailers_beside(message: str, status: Status | None, trailers: Iterable[Any]) -> Trailers:
    """Those of `trailers` that can be sent, and fit into LIMIT beside the message, the status and the request id: ours
    first, then the short ones."""
    room = LIMIT - _OTHER_ENTRIES - 3 * len(message.encode())
    if status is not None:
        room -= _base64(status.ByteSize())
    sendable = [trailer for trailer in trailers if _is_sendable(trailer)]
    kept = []
    for trailer in sorted(sendable, key=lambda each: (not each[0].startswith(_OURS), _size(each))):
        room -= _size(trailer)
        if room >= 0:
            kept.append(trailer)
    return [trailer for trailer in sendable if trailer in kept]


def check_trailers(trailers: Iterable[Any]) -> None:
    """For those that a handler sets beside its reply. Raises ValueError where one cannot be sent, and ResponseTooLarge
    where they have more than what gRPC clients take."""
    for trailer in trailers:
        if not _is_sendable(trailer):
            raise ValueError(f"trailing metadata: {_key_of(trailer)!r} has no key and value that gRPC can send")
    if (size := sum(map(_size, trailers))) > LIMIT:
        raise ResponseTooLarge(
            f"The trailing metadata would have {size} bytes; up to {LIMIT} are sent.", size=size, limit=LIMIT
        )


def _key_of(trailer: Any) -> object:
    return trailer if isinstance(trailer, str) else next(iter(trailer), None)


def _is_sendable(trailer: Any) -> bool:
    """Whether gRPC takes it (https://grpc.io/docs/guides/metadata/). Of what it does not take the caller would hear
    nothing, or that the metadata is invalid."""
    if isinstance(trailer, str) or len(trailer) != 2:  # a dict gives its keys
        return False
    key, value = trailer
    if not isinstance(key, str) or not isinstance(value, str | bytes) or not _KEY.fullmatch(key):
        return False
    if key.endswith("-bin"):
        return isinstance(value, bytes) or value.isascii()
    return _TEXT.fullmatch(value if isinstance(value, bytes) else value.encode(errors="replace")) is not None


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8; what is cut ends in `…`. Surrogates, which JSON can bring in and UTF-8
    cannot carry, become `?`."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - len("…".encode())].decode(errors="ignore") + "…"


def _size(trailer: tuple[str, str | bytes]) -> int:
    key, value = trailer
    return ENTRY_BYTES + len(key) + (_base64(len(value)) if key.endswith("-bin") else len(value))


def _base64(size: int) -> int:
    return -(-size * 4 // 3)
