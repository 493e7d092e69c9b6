"""The log: JSON, one object a line, on stderr.

Every call leaves one line, `"event": "call"`. Lines that a handler logs have the request id of its call, and the trace
id where the caller sent a trace. `docs/observability.md` lists the fields, and says which personal data is kept out.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import sys
import threading
import time
from collections.abc import Mapping, MutableMapping
from json.encoder import encode_basestring
from typing import Any, BinaryIO

import grpc
import structlog

from handfast.server.chassis.call import Call, Method, serving
from handfast.server.chassis.logs.tracebacks import described
from handfast.server.chassis.logs.values import loggable
from handfast.server.chassis.logs.writer import LogWriter
from handfast.server.chassis.pipeline.status_codes import GO_NAMES

_INFO = ("OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "UNAUTHENTICATED")
_ERROR = ("UNKNOWN", "UNIMPLEMENTED", "INTERNAL", "DATA_LOSS")
LEVELS = {
    code: logging.INFO if code.name in _INFO else logging.ERROR if code.name in _ERROR else logging.WARNING
    for code in grpc.StatusCode
}
"""The level of a call's line by the code that its caller saw, as in go-grpc-middleware (DefaultServerCodeToLevel)."""

_encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder a line
_MAX_NAME = 200  # an unknown method can have any name
_writer: LogWriter | None = None  # once it is configured


@functools.cache
def configure(service: str, level: str, stream: BinaryIO | None = None) -> LogWriter:
    """Has structlog and `logging` write to `stream`, by default stderr, for all of this process.

    `service` is the name that lines have, and `level` the lowest that is written, such as `info`. Called again with the
    same arguments, it changes nothing. Returns the writer, whose `flush` waits for the lines that are not out yet.
    """
    global _writer
    _writer = writer = LogWriter(stream or sys.stderr.buffer)
    atexit.register(writer.flush)

    def render(_logger: object, level_name: str, event: MutableMapping[str, Any]) -> bytes:
        call = serving()
        line: dict[str, Any] = {
            "timestamp": _now(),
            "level": level_name,
            "event": "",  # so that it stands here
            "service": service,
        }
        personal = None
        if call is not None:
            line["request_id"] = call.request_id
            if call.trace_id is not None:
                # As OpenTelemetry has it: https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/
                # There is no `span_id`, as the span in `traceparent` is the caller's.
                line["trace_id"] = call.trace_id
            personal = call.personal_data()
        if (error := _exception(event.pop("exc_info", None))) is not None:
            event["exception"] = described(error, personal)
        for name, value in event.items():
            line[name if personal is None else personal.removed_from(name)] = loggable(value, personal)
        return _encode(line).encode(errors="backslashreplace")

    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_shows_no_metadata)
    return writer


def log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    """For `threading.excepthook`: logs the exception that ended a thread. Python would print it, personal data too."""
    name = None if ended.thread is None else ended.thread.name
    structlog.get_logger().critical("a thread ended", thread=name, exc_info=ended.exc_value)


class CallLog:
    """Logs each call of the server `service` as it ends, from `level` on, such as `info`.

    Most lines of a log are these. So what all calls of a method have in common is written once, and the lines do not
    pass through structlog: 2 microseconds a line, not 9.
    """

    def __init__(self, service: str, level: str) -> None:
        self._service = service
        self._level = logging.getLevelNamesMapping()[level.upper()]
        self._heads: dict[tuple[Method, grpc.StatusCode], str] = {}

    def ended(self, call: Call) -> None:
        """Writes the line of `call`, which is closed."""
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
        more = f", {_encode({name: loggable(value) for name, value in call.log.items()})[1:-1]}" if call.log else ""
        line = (
            f'{{"timestamp": "{_now()}", {head}, "grpc.time_ms": {call.seconds * 1000:.3f}, '
            f'"request_id": {encode_basestring(call.request_id)}{trace}, "peer": {encode_basestring(call.peer)}{more}}}'
        )
        if _writer is None:
            structlog.get_logger().log(level, line)
        else:
            _writer.write(line.encode(errors="backslashreplace"))

    def _head(self, path: str, code: grpc.StatusCode) -> str:
        service, _, method = path.removeprefix("/").rpartition("/")
        head = {
            "level": logging.getLevelName(LEVELS[code]).lower(),
            "event": "call",
            "service": self._service,
            "grpc.service": service[:_MAX_NAME],
            "grpc.method": method[:_MAX_NAME],
            "grpc.code": GO_NAMES[code],
        }
        return _encode(head)[1:-1]


def _now() -> str:
    """RFC 3339 in UTC, with milliseconds."""
    now = time.time()
    return f"{_second(int(now))}.{int(now % 1 * 1000):03}Z"


@functools.lru_cache(maxsize=2)
def _second(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


class _ToStructlog(logging.Handler):
    """Passes on to structlog what libraries log by `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        log.log(record.levelno, _text_of(record), logger=record.name, exc_info=record.exc_info)


def _shows_no_metadata(record: logging.LogRecord) -> bool:
    # grpcio logs metadata that is no UTF-8, as it came.
    return not str(record.msg).startswith("Invalid encoding on")


def _text_of(record: logging.LogRecord) -> str:
    """The record's message, as `getMessage` makes it, without personal data of its arguments."""
    text, args = str(loggable(record.msg)), record.args
    if not args:
        return text
    return text % (
        {name: _argument(each) for name, each in args.items()}
        if isinstance(args, Mapping)
        else tuple(map(_argument, args))
    )


def _argument(value: object) -> object:
    return value if isinstance(value, int | float) else loggable(value)  # which may be for a %d


def _exception(exc_info: Any) -> BaseException | None:
    """The exception that `exc_info=` stands for: itself, a tuple of `sys.exc_info()`, or True for the current one."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    if exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exception()
    return exc_info or None
