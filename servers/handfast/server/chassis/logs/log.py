"""Sets up the log of a process. `docs/observability.md` lists the fields of its lines, and says which personal data is
kept out.
"""

from __future__ import annotations

import atexit
import functools
import logging
import sys
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any, BinaryIO

import structlog

from handfast.server.chassis.call import serving
from handfast.server.chassis.logs.tracebacks import described
from handfast.server.chassis.logs.values import loggable
from handfast.server.chassis.logs.writer import CallLog, LogWriter, encode, timestamp


@functools.cache
def configure(service: str, level: str, stream: BinaryIO | None = None) -> LogWriter:
    """Has structlog and `logging` write to `stream`, by default stderr, for all of this process.

    `service` is the name that lines have, and `level` the lowest that is written, such as `info`. Called again with the
    same arguments, it changes nothing. Returns the writer, whose `flush` waits for the lines that are not out yet.
    """
    writer = CallLog.writer = LogWriter(stream or sys.stderr.buffer)
    atexit.register(writer.flush)

    def render(_logger: object, level_name: str, event: MutableMapping[str, Any]) -> bytes:
        call = serving()
        line: dict[str, Any] = {
            "timestamp": timestamp(),
            "level": level_name,
            "event": "",  # its place in the line
            "service": service,
        }
        personal = None
        if call is not None:
            line["request_id"] = call.request_id
            if call.trace_id is not None:
                # As OpenTelemetry has it: https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/
                line["trace_id"] = call.trace_id
                if call.span_id is not None:  # else the span in `traceparent` is the caller's
                    line["span_id"] = call.span_id
            personal = call.personal_data()
        if (error := _exception(event.pop("exc_info", None))) is not None:
            event["exception"] = described(error, personal)
        for name, value in event.items():
            line[name if personal is None else personal.removed_from(name)] = loggable(value, personal)
        return encode(line)

    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_shows_no_metadata)
    for of_metadata in ("opentelemetry.trace.span", "opentelemetry.trace.propagation.tracecontext"):
        logging.getLogger(of_metadata).setLevel(logging.ERROR)  # they warn of a `tracestate`, as it came
    return writer


def log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    """For `threading.excepthook`: logs the exception that ended a thread. Python would print it, personal data too."""
    name = getattr(ended.thread, "name", None)
    structlog.get_logger().critical("a thread ended", thread=name, exc_info=ended.exc_value)


class _ToStructlog(logging.Handler):
    """Passes on to structlog what libraries log by `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, _text_of(record), logger=record.name, exc_info=record.exc_info)


def _shows_no_metadata(record: logging.LogRecord) -> bool:
    # grpcio logs metadata that is no UTF-8, as it came.
    return not str(record.msg).startswith("Invalid encoding on")


def _text_of(record: logging.LogRecord) -> str:
    """The record's message, as `getMessage` makes it, without personal data of its arguments."""
    text, args = str(loggable(record.msg)), record.args
    if isinstance(args, Mapping):
        return text % {name: _argument(each) for name, each in args.items()}
    return text % tuple(map(_argument, args)) if args else text


def _argument(value: object) -> object:
    return value if isinstance(value, int | float) else loggable(value)  # which may be for a %d


def _exception(exc_info: Any) -> BaseException | None:
    """The exception that `exc_info=` stands for: itself, a tuple of `sys.exc_info()`, or True for the current one."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    if exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exception()
    return exc_info or None
