"""Builds a `google.rpc.Status` that always reaches its caller.

gRPC clients take 8 KiB of metadata by default, and lose an error that is larger. So all texts and lists have limits,
which add up to less than LIMIT, whatever a status is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo
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


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8; what is cut ends in `…`. Surrogates, which JSON can bring in and UTF-8
    cannot carry, become `?`."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - len("…".encode())].decode(errors="ignore") + "…"
