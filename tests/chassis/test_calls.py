from __future__ import annotations

import math
import threading
import time
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from handfast.client import propagation
from handfast.server.chassis import call as calls
from handfast.server.chassis.call import Call, Method, Pool, current
from handfast.users.v1 import users_pb2
from tests.eventually import eventually

from .conftest import Running

FOUND = users_pb2.GetUserResponse(user=users_pb2.User(user_id="ada"))


def the_call_of(running: Running, **options: Any) -> Call:
    seen = []

    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        seen.append(current())
        return FOUND

    running.get_user(behavior, **options)
    (call,) = seen
    return call


def test_a_request_id_comes_back_as_it_was_sent(running: Running) -> None:
    running.servicer.behavior = lambda _request, _context: FOUND
    reply, call = running.stub.GetUser.with_call(users_pb2.GetUserRequest(), metadata=(("x-request-id", "mine-1"),))
    assert reply == FOUND
    assert tuple(call.trailing_metadata()) == (("x-request-id", "mine-1"),)
    assert not tuple(call.initial_metadata())  # which would be one more operation on the wire
    assert running.call_log("mine-1")["grpc.code"] == "OK"


def test_a_call_that_a_handler_aborts_is_named_to_its_caller(running: Running) -> None:
    def behavior(_request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata((("own", "1"),))
        context.abort(grpc.StatusCode.ABORTED, "no")

    failure = running.failure(behavior, metadata=(("x-request-id", "aborted-1"),))
    assert (failure.code, failure.message) == (grpc.StatusCode.ABORTED, "no")
    assert failure.trailers == {"own": "1", "x-request-id": "aborted-1"}


@pytest.mark.parametrize("request_id", [None, "", "two words", "x" * 129], ids=["none", "empty", "space", "long"])
def test_a_missing_or_malformed_request_id_is_replaced(running: Running, request_id: str | None) -> None:
    metadata = () if request_id is None else (("x-request-id", request_id),)
    minted = the_call_of(running, metadata=metadata).request_id
    assert minted != request_id
    assert len(minted) == 32


def test_of_several_request_ids_none_is_taken(running: Running) -> None:
    call = the_call_of(running, metadata=[("x-request-id", "one"), ("x-request-id", "two")])
    assert call.request_id not in ("one", "two")
    assert call.repeated == {"x-request-id"}


def test_the_deadline_is_the_callers_or_else_thirty_seconds(running: Running) -> None:
    now = time.monotonic()
    assert 4 < (the_call_of(running, timeout=5).deadline_monotonic_s or 0) - now < 6
    assert 29 < (the_call_of(running).deadline_monotonic_s or 0) - now < 32


def test_calls_to_peers_carry_request_id_trace_and_deadline(running: Running) -> None:
    seen = []

    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        seen.append(propagation.CURRENT.get())
        return FOUND

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    running.get_user(behavior, timeout=5, metadata=(("x-request-id", "r"), ("traceparent", trace)))
    (propagated,) = seen
    assert (propagated.request_id, propagated.traceparent) == ("r", trace)
    assert 4 < (propagated.remaining() or 0) < 6


TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("trace", [f"00-{TRACE_ID}-{SPAN_ID}-01", f"cc-{TRACE_ID}-{SPAN_ID}-00-what-comes-later"])
def test_a_trace_is_known_by_its_id(running: Running, trace: str) -> None:
    call = the_call_of(running, metadata=(("traceparent", trace),))
    assert (call.traceparent, call.trace_id) == (trace, TRACE_ID)


# The rules of https://www.w3.org/TR/trace-context/#versioning-of-traceparent.
@pytest.mark.parametrize(
    "trace",
    [
        "",
        "00-0af7",
        f"00-{TRACE_ID.upper()}-{SPAN_ID.upper()}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        "a" * 7000,
    ],
)
def test_what_is_no_trace_is_neither_handed_on_nor_logged(running: Running, trace: str) -> None:
    call = the_call_of(running, metadata=(("traceparent", trace),))
    assert (call.traceparent, call.trace_id) == (None, None)
    assert "trace_id" not in running.call_log(call.request_id)


def test_a_handler_can_send_initial_metadata_before_it_answers(running: Running, gate: threading.Event) -> None:
    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        current().send_initial_metadata(("handfast-transaction-id", "t1"))
        gate.wait(5)
        return FOUND

    running.servicer.behavior = behavior
    # A streaming caller, since grpcio's unary one looks at the initial metadata only when the reply is there.
    replies = running.channel.unary_stream("/handfast.users.v1.UserService/GetUser")(b"")
    sent = dict(replies.initial_metadata())
    assert sent["handfast-transaction-id"] == "t1"
    assert len(str(sent["x-request-id"])) == 32
    assert replies.is_active()
    gate.set()
    assert list(replies) == [FOUND.SerializeToString()]


def test_a_handler_that_sends_initial_metadata_by_itself_still_answers(running: Running) -> None:
    def behavior(_request: Any, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        context.send_initial_metadata((("own", "1"),))
        return FOUND

    assert running.get_user(behavior) == FOUND


def test_a_log_line_tells_what_operators_ask_and_no_more(running: Running) -> None:
    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        current().log["transaction_id"] = "t1"
        return FOUND

    running.get_user(behavior, metadata=(("x-request-id", "logged"), ("cookie", "private")))
    line = running.call_log("logged")
    assert line.pop("grpc.time_ms") > 0
    assert line.pop("peer").startswith("ipv4:127.0.0.1:")
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "call",
        "service": "users",
        "grpc.service": "handfast.users.v1.UserService",
        "grpc.method": "GetUser",
        "grpc.code": "OK",
        "request_id": "logged",
        "transaction_id": "t1",
    }


def test_a_call_whose_deadline_passes_is_recorded_as_such(running: Running, tolerant: None) -> None:
    def behavior(_request: Any, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        eventually(lambda: not context.is_active())
        return FOUND

    failure = running.failure(behavior, timeout=0.1, metadata=(("x-request-id", "late"),))
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert running.call_log("late")["grpc.code"] == "DeadlineExceeded"


def test_a_call_that_its_caller_cancels_is_recorded_as_such(running: Running) -> None:
    entered = threading.Event()

    def behavior(_request: Any, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        entered.set()
        eventually(lambda: not context.is_active())
        return FOUND

    running.servicer.behavior = behavior
    pending = running.stub.GetUser.future(users_pb2.GetUserRequest(), metadata=(("x-request-id", "cancelled"),))
    assert entered.wait(5)
    pending.cancel()
    assert running.call_log("cancelled")["grpc.code"] == "Canceled"


def test_a_caller_that_cancels_is_told_from_a_deadline_that_passes_while_the_handler_runs_on(running: Running) -> None:
    entered = threading.Event()

    def behavior(_request: Any, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        entered.set()
        eventually(lambda: context.time_remaining() == 0)
        return FOUND

    running.servicer.behavior = behavior
    metadata = (("x-request-id", "cancelled-early"),)
    pending = running.stub.GetUser.future(users_pb2.GetUserRequest(), timeout=0.5, metadata=metadata)
    assert entered.wait(5)
    pending.cancel()
    assert running.call_log("cancelled-early")["grpc.code"] == "Canceled"


def test_a_call_that_expires_in_the_queue_is_recorded_though_no_handler_had_it(
    running: Running, gate: threading.Event, tolerant: None
) -> None:
    busy = threading.Semaphore(0)

    def behavior(request: users_pb2.GetUserRequest, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        if request.user_id == "late":  # where a thread was free before the server knew that the call is late
            eventually(lambda: not context.is_active())
        busy.release()
        gate.wait(5)
        return FOUND

    running.servicer.behavior = behavior
    threads = running.server.settings.threads
    held = [running.stub.GetUser.future(users_pb2.GetUserRequest()) for _ in range(threads)]
    for _ in range(threads):
        assert busy.acquire(timeout=5)
    failure = running.failure(behavior, user_id="late", timeout=0.1, metadata=(("x-request-id", "queued"),))
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.set()
    for pending in held:
        assert pending.result() == FOUND
    assert running.call_log("queued")["grpc.code"] == "DeadlineExceeded"


@pytest.mark.parametrize(
    ("kind", "told", "deadline", "tolerance"),
    [
        ("unary", 100.0, 100.0, 1.0),
        ("unary", 0.5, 0.5, 0.01),
        ("unary", 9.2e18, 30.0, 0.0),  # as grpcio has it where the caller set none
        ("unary", None, 30.0, 0.0),
        ("bidi_stream", 100.0, 100.0, 1.0),
        ("bidi_stream", 9.2e18, None, 0.0),
        ("server_stream", None, None, 0.0),
    ],
)
def test_a_caller_that_leaves_a_little_early_does_so_for_the_deadline_if_it_set_one(
    monkeypatch: pytest.MonkeyPatch, kind: str, told: float | None, deadline: float | None, tolerance: float
) -> None:
    class Context:
        def peer(self) -> str:
            return "somebody"

        def time_remaining(self) -> float | None:
            return told

    context: Any = Context()
    for module in (calls, propagation):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    call = Call(Method("/s/m", "s", "m", kind, "s", Pool("calls", 1)), "/s/m")
    assert (call.peer, call.deadline_monotonic_s, call.tolerance_s) == ("", None, 0.0)
    call.begin(context)
    assert (call.peer, call.remaining(), call.tolerance_s) == ("somebody", deadline, tolerance)


def test_only_a_key_that_comes_twice_is_repeated() -> None:
    method = Method("/s/m", "s", "m", "unary", "s", Pool("calls", 1))
    assert Call(method, "/s/m", [("a", "1"), ("b", "1")]).repeated == frozenset()
    call = Call(method, "/s/m", [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("c", "1"), ("c", "3")])
    assert call.repeated == {"a", "c"}
    assert call.metadata == {"a": "2", "b": "1", "c": "3"}


def test_a_pool_takes_its_threads_and_those_that_wait_for_them() -> None:
    assert Pool("calls", 3, queue=4).limit == 7
    assert Pool("calls", 3, queue=0).limit == 3
    assert Pool("calls", 3, queue=None).limit == math.inf


def test_trailers_are_added_to_those_that_are_there(running: Running) -> None:
    def behavior(_request: Any, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        context.set_trailing_metadata((("first", "1"),))
        current().add_trailer("second", "2")
        current().add_trailer("third-bin", b"3")
        return FOUND

    running.servicer.behavior = behavior
    _reply, call = running.stub.GetUser.with_call(users_pb2.GetUserRequest(), metadata=(("x-request-id", "mine"),))
    assert dict(call.trailing_metadata()) == {"first": "1", "second": "2", "third-bin": b"3", "x-request-id": "mine"}
