"""When a call is over, and how what it waits for is woken. tests/databases/test_cancellation.py has queries."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import grpc
import pytest

from handfast.server.chassis.call import CURRENT, Call, Callbacks, Method, Pool
from handfast.server.chassis.cancellation import (
    Canceller,
    cancel_scope,
    check_active,
    shield,
    sleep,
    wait_for,
    wait_for_all,
    why_ended,
)
from handfast.server.chassis.errors import (
    CallCancelled,
    CallDeadlineExceeded,
    DatabaseUnavailable,
    DomainError,
    ShuttingDown,
)
from handfast.server.chassis.errors.database import database_error
from handfast.server.chassis.logs.writer import LogWriter
from tests.eventually import PATIENCE, eventually

METHOD = Method("/s/m", "s", "m", "unary", "s", Pool("calls", 1, stream_idle_timeout=0.05))
LONG = 1000.0


@pytest.fixture
def call(canceller: Canceller) -> Iterator[Call]:
    """The one that the test serves."""
    call = Call(METHOD, METHOD.path)
    canceller.watch(call)
    token = CURRENT.set(call)
    yield call
    CURRENT.reset(token)


def let_it_look_at_all(canceller: Canceller) -> None:
    """Waits until it has looked at all calls twice."""
    looked: list[None] = []
    other = Call(METHOD, METHOD.path)
    other.grpc_ended_epoch_s, other.callbacks = 1.0, Callbacks()
    other.callbacks.all.append(lambda: looked.append(None))
    canceller.watch(other)
    assert eventually(lambda: len(looked) >= 2)
    canceller.forget(other)


@pytest.mark.parametrize(
    ("remaining", "over", "stopping", "early", "why"),
    [
        (None, False, False, 0.0, None),
        (LONG, False, False, 0.0, None),
        (LONG, False, False, LONG - 100, None),
        (LONG, False, False, LONG, CallDeadlineExceeded),
        (-1.0, False, False, 0.0, CallDeadlineExceeded),
        (-1.0, True, True, 0.0, CallDeadlineExceeded),
        (None, True, False, 0.0, CallCancelled),
        (LONG, True, False, 0.0, CallCancelled),
        (LONG, True, True, 0.0, CallCancelled),
        (5.0, True, False, 0.0, CallDeadlineExceeded),  # within the tolerance
        (5.0, False, False, 0.0, None),
        (LONG, False, True, 0.0, ShuttingDown),
        (None, False, True, 0.0, ShuttingDown),
    ],
)
def test_a_call_is_over_for_one_reason(
    call: Call,
    remaining: float | None,
    over: bool,
    stopping: bool,
    early: float,
    why: type[DomainError] | None,
) -> None:
    call.deadline_monotonic_s = None if remaining is None else time.monotonic() + remaining
    call.grpc_ended_epoch_s = 1.0 if over else None
    call.stopping, call.tolerance_s = stopping, 10.0
    found = why_ended(call, early=early)
    assert type(found) is (why or type(None))


@pytest.mark.parametrize(
    ("remaining", "over", "error"),
    [
        (None, False, DatabaseUnavailable),
        (LONG, False, DatabaseUnavailable),
        (0.9, False, DatabaseUnavailable),
        (0.01, False, CallDeadlineExceeded),  # the database's clock is a little ahead
        (-1.0, True, CallDeadlineExceeded),
        (LONG, True, CallCancelled),
    ],
)
def test_a_query_was_interrupted_for_what_ended_the_call(
    call: Call, remaining: float | None, over: bool, error: type[DomainError]
) -> None:
    interrupted = sqlite3.OperationalError("interrupted")
    interrupted.sqlite_errorcode = sqlite3.SQLITE_INTERRUPT
    call.deadline_monotonic_s = None if remaining is None else time.monotonic() + remaining
    call.grpc_ended_epoch_s = 1.0 if over else None
    assert type(database_error(interrupted, call)) is error


def test_what_has_to_be_done_is_done_though_the_call_is_over(call: Call) -> None:
    call.grpc_ended_epoch_s = 1.0
    with shield():
        check_active()
        with shield(), cancel_scope(pytest.fail):
            check_active()
        sleep(0)
    with pytest.raises(CallCancelled):
        check_active()


def test_outside_of_calls_nothing_is_interrupted() -> None:
    assert CURRENT.get(None) is None
    with shield(), cancel_scope(pytest.fail):
        check_active()
    sleep(0)


def test_who_comes_to_wait_in_a_call_that_is_over_does_not(call: Call) -> None:
    call.grpc_ended_epoch_s = 1.0
    with pytest.raises(CallCancelled), cancel_scope(pytest.fail):
        pytest.fail("it began to wait")
    with pytest.raises(CallCancelled):
        sleep(LONG)


@pytest.mark.parametrize("stops", [False, True], ids=["the caller leaves", "the server stops"])
def test_what_waits_is_woken_again_and_again_until_it_ends_and_never_after(
    canceller: Canceller, call: Call, stops: bool
) -> None:
    woken: list[None] = []
    with cancel_scope(lambda: woken.append(None)):
        if stops:
            canceller.interrupt_all()
        else:
            canceller.grpc_ended(call)
        assert eventually(lambda: len(woken) >= 3)
    number = len(woken)
    canceller.grpc_ended(call)
    let_it_look_at_all(canceller)
    assert len(woken) == number
    canceller.forget(call)


def test_a_wake_that_fails_is_logged_and_holds_up_no_other(
    canceller: Canceller, call: Call, log: io.BytesIO, writer: LogWriter
) -> None:
    woken = threading.Event()

    def fail() -> None:
        raise OSError("it will not wake")

    with cancel_scope(fail), cancel_scope(woken.set):
        canceller.grpc_ended(call)
        assert woken.wait(PATIENCE)
    assert canceller.is_alive()
    writer.flush()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert "it will not wake" in str([line for line in lines if line.get("request_id") == call.request_id])


def test_a_call_that_begins_while_the_server_stops_is_told(canceller: Canceller) -> None:
    canceller.interrupt_all()
    late = Call(METHOD, METHOD.path)
    canceller.watch(late)
    assert len(canceller.running) == 1
    assert late.stopping
    canceller.forget(late)
    assert len(canceller.running) == 0


def test_a_call_that_keeps_its_thread_waiting_for_the_caller_is_cut_once(canceller: Canceller) -> None:
    cuts: list[tuple[int, str]] = []
    call = Call(METHOD, METHOD.path)
    call.cancel = lambda code, message: cuts.append((code, message))
    canceller.watch(call)
    let_it_look_at_all(canceller)
    assert cuts == []  # it is at work
    call.waiting_since = time.monotonic()
    assert eventually(lambda: cuts)
    let_it_look_at_all(canceller)
    assert cuts == [(grpc.StatusCode.DEADLINE_EXCEEDED.value[0], call.idle_error)]
    assert call.log["error.message"] == call.idle_error
    assert "0.05 seconds" in call.idle_error
    canceller.forget(call)


class Answer:
    """A peer's, as the client's stubs have it: `give` says what comes of it."""

    def __init__(self, give: Callable[[], str]) -> None:
        self._give, self.cancelled = give, threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()

    def result(self) -> str:
        return self._give()


def fail() -> str:
    raise ConnectionError("gone")


def test_the_answers_of_peers_come_in_the_order_of_the_questions(call: Call) -> None:
    asked = [Answer(lambda: "a"), Answer(lambda: "b")]
    assert wait_for_all(*asked) == ["a", "b"]
    assert not any(each.cancelled.is_set() for each in asked)


def test_where_one_peer_fails_the_others_are_cancelled(call: Call) -> None:
    asked = [Answer(lambda: "a"), Answer(fail), Answer(lambda: "c")]
    with pytest.raises(ConnectionError):
        wait_for_all(*asked)
    assert asked[2].cancelled.is_set()


def test_a_call_that_is_over_cancels_its_question(canceller: Canceller, call: Call) -> None:
    asked = Answer(lambda: "too late")

    def wait() -> str:
        asked.cancelled.wait(PATIENCE)
        raise grpc.FutureCancelledError

    asked._give = wait
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(copy_context().run, wait_for, asked)
        assert eventually(lambda: call.callbacks is not None and call.callbacks.all)
        canceller.grpc_ended(call)
        with pytest.raises(CallCancelled):
            answer.result(PATIENCE)
    later = Answer(lambda: "never asked for")
    with pytest.raises(CallCancelled):
        wait_for(later)
    assert later.cancelled.is_set()


def test_a_question_that_somebody_else_cancels_is_told_as_that(call: Call) -> None:
    def cancelled() -> str:
        raise grpc.FutureCancelledError

    with pytest.raises(grpc.FutureCancelledError):
        wait_for(Answer(cancelled))
