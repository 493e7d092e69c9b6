"""The line of each call, and the thread that writes all lines, so that a pipe which nobody reads holds up no call."""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections import deque
from contextlib import suppress
from json.encoder import encode_basestring
from typing import Any, BinaryIO

import grpc
import structlog

from handfast.server.chassis.call import Call, Method
from handfast.server.chassis.logs.values import loggable

GO_NAMES = {code: code.name.title().replace("_", "") for code in grpc.StatusCode}
GO_NAMES |= {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}
"""Status codes as Go spells them, for logs and metrics: dashboards made for go-grpc-middleware read both."""

_INFO = ("OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "UNAUTHENTICATED")
_ERROR = ("UNKNOWN", "UNIMPLEMENTED", "INTERNAL", "DATA_LOSS")
LEVELS = {
    code: logging.INFO if code.name in _INFO else logging.ERROR if code.name in _ERROR else logging.WARNING
    for code in grpc.StatusCode
}
"""The level of a call's line by the code that its caller saw, as in go-grpc-middleware (DefaultServerCodeToLevel)."""

_FIELDS = {"timestamp", "level", "event", "service", "grpc.service", "grpc.method", "grpc.code", "grpc.time_ms"}
_FIELDS |= {"request_id", "trace_id", "span_id", "peer"}
"""Those that the line of a call has, whatever a handler adds."""
_to_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder a line
MAX_NAME = 200  # characters; an unknown method can have any name
PLACES, PLACES_WITH_WRITES = 10_000, 20_000
"""How many lines may wait: others than those of the audit that tell of a write, and all together."""
_LOOK_EVERY = 0.002  # seconds
_GATHER = 0.02  # seconds; one write for many lines costs a busy server far less than one each


class LogWriter:
    """Writes lines to `stream` within some 20 ms. While 10,000 wait, further ones are dropped; a line says how many.
    Lines of the audit that tell of a write have 10,000 places of their own, so no others make these get lost.

    `thread` is the id that the system gives the thread that writes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._dropped = self._dropped_writes = 0
        self._wanted = threading.Event()
        self._writing = False
        thread = threading.Thread(target=self._run, name="log", daemon=True)
        thread.start()
        self.thread = thread.native_id or 0

    def write(self, line: bytes, places: int = PLACES) -> None:
        """Hands over one line, without its end, if fewer than so many wait. Never waits."""
        if len(self._lines) >= places:
            self._dropped += 1
            self._dropped_writes += places == PLACES_WITH_WRITES
            return
        self._lines.append(line)
        if not self._wanted.is_set():
            self._wanted.set()

    debug = info = warning = error = critical = write  # structlog gives it lines by their level

    def flush(self, timeout: float = 1.0) -> None:
        """Waits until what was written before is out, but no longer than `timeout` seconds."""
        end = time.monotonic() + timeout
        while (self._lines or self._writing) and time.monotonic() < end:
            self._wanted.set()
            time.sleep(_LOOK_EVERY)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            time.sleep(_GATHER)
            self._wanted.clear()
            self._writing = True  # before the lines are taken: `flush` looks at these first
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if self._dropped:
                dropped = {"count": self._dropped, "audited_writes": self._dropped_writes}
                self._dropped = self._dropped_writes = 0
                lines.append(encode({"level": "error", "event": "log lines dropped", **dropped}))
            with suppress(OSError, ValueError):  # nobody reads any more, or the stream is closed: the server goes on
                self._stream.write(b"".join(line + b"\n" for line in lines))
                self._stream.flush()
            self._writing = False


class CallLog:
    """Logs each call of the server `service` as it ends, from `level` on, such as `info`.

    Most lines of a log are these. So what all calls of a method have in common is written once, and the lines do not
    pass through structlog: 2 microseconds a line, not 9.
    """

    writer: LogWriter | None = None  # of this process, once the log is configured

    def __init__(self, service: str, level: str) -> None:
        self._service = service
        self._level = logging.getLevelNamesMapping()[level.upper()]
        self._heads: dict[tuple[Method, grpc.StatusCode], str] = {}

    def ended(self, call: Call) -> None:
        """Writes the line of `call`, which is recorded."""
        code = call.code
        assert code is not None
        level = LEVELS[code]
        if level < self._level:
            return
        key = call.method, code
        # Unknown methods have one `Method` for all of their paths.
        head = self._heads.get(key) if call.path == call.method.path else self._head(call.path, code)
        if head is None:
            head = self._heads[key] = self._head(call.path, code)
        trace = "" if (trace_id := call.trace_id) is None else f', "trace_id": "{trace_id}"'
        if call.span_id is not None:
            trace += f', "span_id": "{call.span_id}"'
        more = _own_fields(call) if call.log else ""
        line = (
            f'{{"timestamp": "{timestamp()}", {head}, "grpc.time_ms": {call.seconds * 1000:.3f}, '
            f'"request_id": {encode_basestring(call.request_id)}{trace}, "peer": {encode_basestring(call.peer)}{more}}}'
        )
        if self.writer is None:
            structlog.get_logger().log(level, line)
        else:
            self.writer.write(line.encode(errors="backslashreplace"))

    def _head(self, path: str, code: grpc.StatusCode) -> str:
        service, _, method = path.removeprefix("/").rpartition("/")
        head = {
            "level": logging.getLevelName(LEVELS[code]).lower(),
            "event": "call",
            "service": self._service,
            "grpc.service": service[:MAX_NAME],
            "grpc.method": method[:MAX_NAME],
            "grpc.code": GO_NAMES[code],
        }
        return _to_json(head)[1:-1]


def _own_fields(call: Call) -> str:
    """What handlers and interceptors add to the line of a call. The fields that each line has stay as they are."""
    try:
        # A copy, as a thread that a handler left behind may still add some.
        fields = {str(loggable(name)): loggable(value) for name, value in call.log.copy().items()}
        return "".join(f", {_to_json(name)}: {_to_json(fields[name])}" for name in fields if name not in _FIELDS)
    except Exception as error:  # of a value that cannot say what it is
        return f', "log.error": "{type(error).__name__}"'


def encode(line: dict[str, Any]) -> bytes:
    return _to_json(line).encode(errors="backslashreplace")


def timestamp() -> str:
    """RFC 3339 in UTC, with milliseconds."""
    now = time.time()
    return f"{_second(int(now))}.{int(now % 1 * 1000):03}Z"


@functools.lru_cache(maxsize=2)
def _second(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))
