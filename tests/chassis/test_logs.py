from __future__ import annotations

import gc
import io
import json
import logging
import pathlib
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import structlog

from handfast.server.chassis.call import current
from handfast.server.chassis.logs import log as logs
from handfast.server.chassis.logs.writer import PLACES_WITH_WRITES, CallLog, LogWriter
from handfast.users.v1 import users_pb2
from tests import http2
from tests.eventually import PATIENCE, eventually

from .conftest import Running, StartServer


def test_metadata_that_is_no_utf_8_does_not_show(running: Running, log: io.BytesIO) -> None:
    headers = [(b"x-request-id", b"no-utf-8"), (b"x-other", b"secret\xff")]
    http2.send(running.server.address, b"/handfast.users.v1.UserService/UpdateUser", b"", headers)
    assert running.call_log("no-utf-8")["grpc.code"] == "OK"
    assert b"secret" not in log.getvalue()


class StuckPipe(io.BytesIO):
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go_on = threading.Event(), threading.Event()

    def write(self, data: Any) -> int:
        self.entered.set()
        self.go_on.wait(10)
        return super().write(data)


def test_a_pipe_that_nobody_empties_holds_nobody_up_and_what_was_dropped_is_counted() -> None:
    pipe = StuckPipe()
    writer = LogWriter(pipe)
    writer.write(b"first")
    assert pipe.entered.wait(5)
    for _ in range(10_005):
        writer.write(b"more")
    writer.flush(0.01)  # which does not wait for ever
    pipe.go_on.set()
    writer.flush()
    lines = pipe.getvalue().splitlines()
    assert lines.count(b"more") == 10_000
    dropped = json.loads(lines[-1])
    assert (dropped["count"], dropped["audited_writes"]) == (5, 0)
    writer.write(b"later")
    writer.flush()
    assert pipe.getvalue().splitlines()[len(lines) :] == [b"later"]


def test_lines_of_writes_have_places_that_no_others_take() -> None:
    pipe = StuckPipe()
    writer = LogWriter(pipe)
    writer.write(b"first")
    assert pipe.entered.wait(5)
    for _ in range(10_003):
        writer.write(b"refused")
    for _ in range(10_002):
        writer.write(b"changed", PLACES_WITH_WRITES)
    pipe.go_on.set()
    writer.flush(PATIENCE)
    lines = pipe.getvalue().splitlines()
    assert (lines.count(b"refused"), lines.count(b"changed")) == (10_000, 10_000)
    dropped = json.loads(lines[-1])
    assert (dropped["count"], dropped["audited_writes"]) == (5, 2)


def test_a_log_that_cannot_be_written_does_not_stop_the_server() -> None:
    closed = io.BytesIO()
    closed.close()
    writer = LogWriter(closed)
    writer.write(b"line")
    writer.flush()


@pytest.mark.parametrize(
    "log_something",
    [lambda: structlog.get_logger().info("noted", count=1), lambda: logging.getLogger("library").warning("noted")],
    ids=["structlog", "logging"],
)
def test_what_is_logged_beneath_a_handler_carries_its_request_id(running: Running, log_something: Any) -> None:
    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        log_something()
        return users_pb2.GetUserResponse()

    request_id = f"noted-{id(log_something)}"
    running.get_user(behavior, metadata=(("x-request-id", request_id),))
    assert [line["event"] for line in running.log_lines(request_id) if line["event"] != "call"] == ["noted"]


def failing(log_it: Callable[[Exception], None]) -> Callable[..., users_pb2.GetUserResponse]:
    """A handler that fails, logs that, and answers all the same."""

    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        try:
            raise KeyError("a bad day")
        except KeyError as error:
            log_it(error)
        return users_pb2.GetUserResponse()

    return behavior


LOG_FAILURE: dict[str, Callable[[Exception], None]] = {
    "the exception": lambda error: structlog.get_logger().error("noted", exc_info=error),
    "true": lambda _error: structlog.get_logger().error("noted", exc_info=True),
    "exc_info": lambda _error: structlog.get_logger().error("noted", exc_info=sys.exc_info()),
    "structlog": lambda _error: structlog.get_logger().exception("noted"),
    "logging": lambda _error: logging.getLogger("library").exception("noted"),
}


@pytest.mark.parametrize("way", LOG_FAILURE)
def test_an_exception_is_logged_however_it_is_given(running: Running, way: str) -> None:
    running.get_user(failing(LOG_FAILURE[way]), metadata=(("x-request-id", f"failed-{way.split()[0]}"),))
    (line,) = [line for line in running.log_lines(f"failed-{way.split()[0]}") if line["event"] == "noted"]
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback")
    assert "KeyError: 'a bad day'" in line["exception"]
    assert "exc_info" not in line


@pytest.mark.parametrize("given", [None, False, True, (None, None, None)], ids=str)
def test_a_line_about_no_exception_has_none(running: Running, given: Any) -> None:
    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        structlog.get_logger().error("noted", exc_info=given)
        return users_pb2.GetUserResponse()

    request_id = f"none-{given is None}-{bool(given)}-{isinstance(given, tuple)}"
    running.get_user(behavior, metadata=(("x-request-id", request_id),))
    (line,) = [line for line in running.log_lines(request_id) if line["event"] == "noted"]
    assert "exception" not in line


class Large:
    """Something that a handler has at hand."""


def test_what_a_handler_had_when_it_crashed_is_freed_without_the_garbage_collector(running: Running) -> None:
    left: list[weakref.ref[Large]] = []

    def behavior(_request: Any, _context: Any) -> None:
        large = Large()
        left.append(weakref.ref(large))
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ZeroDivisionError from error

    gc.disable()
    try:
        running.failure(behavior, metadata=(("x-request-id", "crashed-and-freed"),))
        assert "ZeroDivisionError" in running.call_log("crashed-and-freed")["exception"]
        assert eventually(lambda: left[0]() is None)
    finally:
        gc.enable()


class Unprintable(pathlib.PurePosixPath):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"n": 10**5000}, {"n": "(16610 bits)"}),
        ({("a", 1): "pair"}, {"['a', 1]": "pair"}),
        ({"path": Unprintable("p")}, {"log.error": "ValueError"}),
        ({"grpc.code": "Bogus", "request_id": "Bogus"}, {}),
    ],
    ids=["a number of any length", "a key that is no text", "a value without a text", "what every line has"],
)
def test_what_a_handler_adds_to_the_line_of_its_call_costs_neither_the_line_nor_a_thread(
    start: StartServer, fields: Any, shown: dict[str, object]
) -> None:
    running = start(threads=1)

    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        current().log.update(fields)
        return users_pb2.GetUserResponse()

    for number in range(2):
        request_id = f"adds-{next(iter(fields))!r}-{number}".replace(" ", "")
        running.get_user(behavior, metadata=(("x-request-id", request_id),))
        line = running.call_log(request_id)
        assert line["grpc.code"] == "OK"
        assert line.items() >= shown.items()


def test_a_report_that_fails_costs_no_thread(start: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start(threads=1)

    def fail(_self: object, _call: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(CallLog, "_head", fail)
        running.get_user(lambda _request, _context: users_pb2.GetUserResponse(), metadata=(("x-request-id", "lost"),))
        lines = eventually(lambda: running.log_lines("lost")) or []  # it comes after the reply
    assert [line["event"] for line in lines] == ["the end of a call could not be reported"]
    running.get_user(lambda _request, _context: users_pb2.GetUserResponse(), metadata=(("x-request-id", "kept"),))
    assert running.call_log("kept")["grpc.code"] == "OK"


def test_the_time_of_a_call_is_logged_in_milliseconds(running: Running) -> None:
    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        time.sleep(0.02)
        return users_pb2.GetUserResponse()

    began = time.perf_counter()
    running.get_user(behavior, metadata=(("x-request-id", "timed"),))
    line = running.call_log("timed")
    assert 20 <= line["grpc.time_ms"] <= 1000 * (time.perf_counter() - began)


@pytest.mark.parametrize("part", ["service", "method"])
def test_a_name_that_somebody_made_up_is_cut(running: Running, part: str) -> None:
    names = {"service": "s", "method": "m"} | {part: "x" * 1000}
    with pytest.raises(grpc.RpcError):
        running.channel.unary_unary("/{service}/{method}".format(**names))(b"", metadata=(("x-request-id", part),))
    line = running.call_log(part)
    assert len(line[f"grpc.{part}"]) == 200
    assert names["method"].startswith(line["grpc.method"])
    assert names["service"].startswith(line["grpc.service"])


def test_an_id_with_quotes_and_backslashes_is_logged_as_it_is(running: Running) -> None:
    request_id = '"id"\\n{}'
    running.get_user(lambda *_: users_pb2.GetUserResponse(), metadata=(("x-request-id", request_id),))
    assert running.call_log(request_id)["grpc.code"] == "OK"


def test_calls_below_the_level_of_the_log_leave_no_line(start: StartServer) -> None:
    quiet = start(log_level="warning")
    quiet.get_user(lambda *_: users_pb2.GetUserResponse(), metadata=(("x-request-id", "quiet"),))
    failure = quiet.failure(lambda *_: None, metadata=(("x-request-id", "loud"),))
    assert quiet.call_log(failure.request_id)["level"] == "error"
    assert quiet.log_lines("quiet") == []


def test_a_log_is_set_up_once(log: io.BytesIO, writer: LogWriter) -> None:
    assert logs.configure("users", "info", log) is writer


TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACED = ("traceparent", f"00-{TRACE_ID}-b7ad6b7169203331-01")


def test_every_line_of_a_traced_call_names_the_trace_and_no_span_of_somebody_else(running: Running) -> None:
    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        structlog.get_logger().info("noted")
        return users_pb2.GetUserResponse()

    running.get_user(behavior, metadata=(("x-request-id", "traced"), TRACED))
    running.call_log("traced")
    lines = running.log_lines("traced")
    assert [(line["event"], line.get("trace_id")) for line in lines] == [("noted", TRACE_ID), ("call", TRACE_ID)]
    assert [line for line in lines if "span_id" in line] == []


def test_a_traced_call_that_reaches_no_handler_names_the_trace(running: Running) -> None:
    with pytest.raises(grpc.RpcError):
        running.channel.unary_unary("/no.Such/Method")(b"", metadata=(("x-request-id", "unknown-traced"), TRACED))
    assert running.call_log("unknown-traced")["trace_id"] == TRACE_ID


LEVELS = {
    "info": ("OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "UNAUTHENTICATED"),
    "warning": (
        "DEADLINE_EXCEEDED",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNAVAILABLE",
    ),
    "error": ("UNKNOWN", "UNIMPLEMENTED", "INTERNAL", "DATA_LOSS"),
}
"""Those of go-grpc-middleware: interceptors/logging, DefaultServerCodeToLevel."""


@pytest.mark.parametrize(("level", "name"), [(level, name) for level, names in LEVELS.items() for name in names])
def test_a_call_is_logged_at_the_level_that_go_grpc_middleware_gives_its_code(
    running: Running, level: str, name: str
) -> None:
    code = grpc.StatusCode[name]
    request_id = f"level-of-{name}"

    def behavior(_request: Any, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        if code is not grpc.StatusCode.OK:
            context.abort(code, "as the test says")
        return users_pb2.GetUserResponse()

    metadata = (("x-request-id", request_id),)
    if code is grpc.StatusCode.OK:
        running.get_user(behavior, metadata=metadata)
    else:
        assert running.failure(behavior, metadata=metadata).code is code
    assert running.call_log(request_id)["level"] == level


def test_each_code_has_a_level() -> None:
    named = [name for names in LEVELS.values() for name in names]
    assert sorted(named) == sorted(code.name for code in grpc.StatusCode)
