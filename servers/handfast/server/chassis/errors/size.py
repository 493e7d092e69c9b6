"""Cuts errors down to what callers take: gRPC clients accept 8 KiB of metadata by default, and lose all of what is
larger.

Of an error that is too large, the code, who refused and why, when to call again and the request id always arrive.
Then come, as far as there is room: the start of the message, the values that it mentions, violations (with the number
of those left out), and what else a peer sent.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from itertools import accumulate
from urllib.parse import quote

from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

LIMIT = 7 * 1024
"""Bytes of trailers that an error may have; the rest of the 8 KiB is for what gRPC itself and proxies add."""
MAX_MESSAGE = 1024
"""Bytes of a message that is cut, percent-encoded."""

_OTHER_TRAILERS = 1800  # that there is always room for; the status gets the rest
_OURS = ("handfast-", "grpc-")
_ENTRY = 32  # that HTTP/2 counts for each entry beside its key and value
_STATUS_ENTRIES = 3 * _ENTRY + sum(map(len, ("grpc-status", "16", "grpc-message", "grpc-status-details-bin")))
_MAX_NAME, _MAX_VALUE, _MAX_VALUES = 128, 256, 1024
_FRAME = 8  # bytes that a field takes beside its content, at most
_DETAIL = 64  # bytes that a detail takes beside its content: the name of its type above all
_LEFT_OUT = 48  # bytes that it takes to say how many violations are left out
_UNESCAPED = string.punctuation.replace("%", "") + " "

Trailers = Sequence[tuple[str, str | bytes]]


def fit_trailers(trailers: Trailers) -> Trailers:
    """`trailers` to send beside a status and its request id: without the largest where all of them are too many, ours
    last."""
    kept = list(trailers)
    while _size(kept) > _OTHER_TRAILERS:
        kept.remove(max(kept, key=lambda trailer: (not trailer[0].startswith(_OURS), _size([trailer]))))
    return kept


def fit_status(status: Status, trailers: Trailers) -> Status:
    """`status` itself where it fits beside `trailers`, else what does of it. It has no detail of ours twice."""
    room = LIMIT - _size(trailers) - _STATUS_ENTRIES
    if _percent_encoded(status.message) + _base64(status.ByteSize()) <= room:
        return status
    message = cut(status.message, MAX_MESSAGE)
    room = (room - _percent_encoded(message)) * 3 // 4  # for the status, before it is encoded
    room -= len(message.encode()) + 2 * _FRAME

    info, bad_request = ErrorInfo(), BadRequest()
    small: list[Any] = []
    others: list[Any] = []
    for detail in status.details:
        if detail.Unpack(RetryInfo()) or detail.Unpack(RequestInfo()):
            small.append(detail)
        elif not detail.Unpack(info) and not detail.Unpack(bad_request):
            others.append(detail)
    room -= sum(detail.ByteSize() + _FRAME for detail in small)

    short_info = _short_info(info, room)
    room -= short_info.ByteSize() + _DETAIL
    short = Status(code=status.code, message=message)
    short.details.add().Pack(short_info)
    if bad_request.field_violations:
        listed = _listed(bad_request, room - _DETAIL)
        room -= listed.ByteSize() + _DETAIL
        short.details.add().Pack(listed)
    for detail in others:
        if detail.ByteSize() + _FRAME <= room:
            room -= detail.ByteSize() + _FRAME
            short.details.append(detail)
    short.details.extend(small)
    return short


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of percent-encoding, which is how gRPC sends a message."""
    return _cut(text, limit, _percent_encoded)


def _short_info(info: ErrorInfo, room: int) -> ErrorInfo:
    """Who refused and why, with as many values as fit, short ones first."""
    short = ErrorInfo(reason=_cut_bytes(info.reason, _MAX_NAME), domain=_cut_bytes(info.domain, _MAX_NAME))
    room = min(_MAX_VALUES, room - short.ByteSize() - _DETAIL)
    for name, value in sorted(info.metadata.items(), key=lambda item: len(item[0]) + len(item[1])):
        value = _cut_bytes(value, _MAX_VALUE)
        room -= len(name.encode()) + len(value.encode()) + 2 * _FRAME
        if room < 0:
            break
        short.metadata[name] = value
    return short


def _listed(bad_request: BadRequest, room: int) -> BadRequest:
    """As many violations as fit, and how many did not."""
    violations = bad_request.field_violations
    listed = BadRequest()
    room -= _LEFT_OUT
    for number, violation in enumerate(violations):
        field, description = (_cut_bytes(text, _MAX_VALUE) for text in (violation.field, violation.description))
        short = BadRequest.FieldViolation(
            field=field, description=description, reason=_cut_bytes(violation.reason, _MAX_NAME)
        )
        room -= short.ByteSize() + _FRAME
        if room < 0:
            listed.field_violations.add(description=f"{len(violations) - number} more are not listed")
            break
        listed.field_violations.append(short)
    return listed


def _size(trailers: Trailers) -> int:
    """As HTTP/2 counts them (RFC 9113, 6.5.2)."""
    return sum(
        _ENTRY + len(key) + (_base64(len(value)) if key.endswith("-bin") else len(value)) for key, value in trailers
    )


def _base64(size: int) -> int:
    return -(-size * 4 // 3)


def _percent_encoded(text: str) -> int:
    return len(quote(text, safe=_UNESCAPED))


def _bytes(text: str) -> int:
    return len(text.encode())


def _cut_bytes(text: str, limit: int) -> str:
    return _cut(text, limit, _bytes)


def _cut(text: str, limit: int, size: Callable[[str], int]) -> str:
    if len(text) <= limit and size(text) <= limit:
        return text
    room = limit - size("…")
    sizes = accumulate(size(character) for character in text[:limit])
    return text[: sum(1 for each in sizes if each <= room)] + "…"
