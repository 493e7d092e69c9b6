"""What a call is recorded as, from what is known at its end. `test_accounting.py` does so with real calls."""

from __future__ import annotations

import runpy
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from grpc import _server

from handfast.server.chassis.call import CURRENT, Call, Method, Pool
from handfast.server.chassis.cancellation import Canceller
from handfast.server.chassis.pipeline import pools
from handfast.server.chassis.pipeline.pools import CallExecutor, Limiter
from tests.eventually import PATIENCE

OK, LATE = grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED
GONE, STOPPED, MISSING = grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED
FAR = 1e9
CALLS = Pool("calls", 1)


def new_call(kind: str = "unary", pool: Pool = CALLS) -> Call:
    return Call(Method("/s/m", "s", "m", kind, "s", pool), "/s/m")


def new_executor(on_record: Sequence[Callable[[Call], None]], *methods: Method) -> CallExecutor:
    limiter = Limiter({method.pool for method in methods}, methods)
    return CallExecutor(limiter, Canceller(), lambda _call, _context: None, on_record)


@pytest.mark.parametrize(
    ("decided", "sent", "deadline", "left_at", "stopped", "idle_error", "code"),
    [
        (OK, True, FAR, None, False, "", OK),
        (OK, True, -1.0, 0.0, True, "", OK),
        (None, True, FAR, None, False, "", MISSING),
        (OK, False, FAR, 0.0, False, "", GONE),
        (None, False, FAR, None, False, "", GONE),
        (OK, False, FAR, 0.0, True, "", STOPPED),
        (OK, False, 100.0, 99.5, False, "", LATE),  # a caller leaves a little before its deadline
        (OK, False, 100.0, 98.5, False, "", GONE),
        (OK, False, 0.5, 0.495, False, "", LATE),
        (OK, False, 0.5, 0.48, False, "", GONE),
        (OK, False, 100.0, 99.5, True, "", LATE),
        (OK, False, -1.0, None, False, "", LATE),
        (None, False, FAR, None, False, "it waited", LATE),
        (None, True, FAR, None, False, "it waited", LATE),
        (OK, False, FAR, 0.0, True, "it waited", LATE),
        (OK, True, FAR, None, False, "it waited", OK),  # it had ended before
    ],
)
def test_a_call_is_recorded_as_its_caller_saw_it(
    decided: grpc.StatusCode | None,
    sent: bool,
    deadline: float,
    left_at: float | None,
    stopped: bool,
    idle_error: str,
    code: grpc.StatusCode,
) -> None:
    """`deadline` and `left_at` are seconds after the call's arrival."""
    call = new_call()
    arrived = time.time()
    call.code, call.idle_error = decided, idle_error
    call.grpc_ended_epoch_s = None if left_at is None else arrived + left_at
    call.record(status_sent=sent, deadline_epoch_s=arrived + deadline, server_stopped=stopped)
    assert call.code is code
    assert call.seconds > 0


def test_who_is_told_of_the_end_of_a_call_is_told_once_and_before_its_context_is_given_up() -> None:
    told: list[Any] = []
    executor = new_executor([lambda each: told.append((each.code, each.context is not None))] * 2)
    call: Any = new_call()
    call.context = call.cancel = object()
    event = SimpleNamespace(call_details=SimpleNamespace(deadline=time.time() + FAR * 10))
    executor._record(call, (None, event, SimpleNamespace(statused=False, client="cancelled")))
    assert told == [(GONE, True)] * 2
    assert (call.context, call.cancel) == (None, None)


@pytest.mark.parametrize("ended_first", [False, True])
def test_a_call_that_can_outlast_its_handler_is_recorded_once_grpc_has_ended(ended_first: bool) -> None:
    recorded: list[Any] = []
    executor = new_executor([recorded.append])
    call = new_call("bidi_stream")
    when_ended: list[Callable[[], None]] = []

    def add_callback(act: Callable[[], None]) -> bool:
        when_ended.append(act)
        return not ended_first

    call.context = Mock(add_callback=add_callback)
    event = SimpleNamespace(call=Mock(), call_details=SimpleNamespace(deadline=time.time() + FAR))
    executor._run((call, lambda *_: None, (None, event, SimpleNamespace(statused=True, client="closed"))))
    assert len(recorded) == int(ended_first)
    if not ended_first:
        when_ended.pop()()
    assert recorded == [call]


@pytest.mark.parametrize("queue", [0, 256, None])
@pytest.mark.parametrize("as_expected", [True, False])
def test_a_request_is_received_before_a_thread_takes_the_call(
    queue: int | None, as_expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_IS_AS_EXPECTED", as_expected)
    pool, served = Pool("calls", 1, queue=queue), threading.Event()
    call = new_call(pool=pool)
    executor = new_executor([], call.method)
    context, grpcs_call = copy_context(), Mock()
    context.run(CURRENT.set, call)
    event = SimpleNamespace(call=grpcs_call, call_details=SimpleNamespace(deadline=time.time() + FAR))
    state = SimpleNamespace(statused=True, client="closed", due=set(), condition=threading.Condition(), callbacks=None)

    def unary_request() -> None: ...

    executor.submit(context.run, lambda *_: served.set(), event, state, None, unary_request, None, None)
    assert grpcs_call.start_server_batch.called is as_expected
    if not as_expected:
        assert served.wait(PATIENCE)
    assert executor.stop(PATIENCE)
    assert served.is_set() is not as_expected


def test_requests_are_left_to_a_grpcio_that_is_another_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    def unary_request() -> None: ...

    arguments = (None, None, None, None, unary_request, None, None)
    assert pools._takes_one_request(arguments)
    assert not pools._takes_one_request((*arguments, None))
    assert not pools._takes_one_request((*arguments[:4], None, unary_request, None))
    monkeypatch.setattr(_server, "_possibly_finish_call", lambda state: None)
    assert not runpy.run_path(pools.__file__)["_IS_AS_EXPECTED"]
