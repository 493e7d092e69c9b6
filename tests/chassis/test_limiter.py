"""How many calls a pool takes, and how a server that stops waits for those in flight."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

from handfast.server.chassis.call import Call, Method, Pool, Refused
from handfast.server.chassis.pipeline import pools
from handfast.server.chassis.pipeline.pools import REFUSALS, Limiter, pool_of
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse
from tests.eventually import PATIENCE, eventually

from .conftest import StartServer

SMALL, LARGE = Pool("small", 1, queue=1), Pool("large", 8, queue=None)
METHODS = {pool.name: Method(f"/s/{pool.name}", "s", pool.name, "unary", "s", pool) for pool in (SMALL, LARGE)}


@pytest.fixture
def limiter() -> Limiter:
    return Limiter([SMALL, LARGE], METHODS.values())


def new_call(pool: Pool, refused: Refused | None = None) -> Call:
    method = METHODS[pool.name]
    call = Call(method, method.path)
    call.refused = refused
    return call


def acquired(limiter: Limiter, pool: Pool) -> Refused | None:
    """Why a further call of the pool is refused; None where it is not."""
    call = new_call(pool)
    assert (limiter.arrive(call) and limiter.acquire(call)) is (call.refused is None)
    assert not isinstance(call.refused, Exception)
    return call.refused


def released(limiter: Limiter, pool: Pool, refused: Refused | None = None) -> None:
    call = new_call(pool, refused)
    call.code = grpc.StatusCode.OK if refused is None else grpc.StatusCode.UNAVAILABLE
    limiter.release(call)


def test_a_pool_takes_as_many_calls_as_it_has_threads_and_places(limiter: Limiter) -> None:
    assert [acquired(limiter, SMALL) for _ in range(4)] == [None, None, Refused.OVERLOADED, Refused.OVERLOADED]
    assert (limiter.in_flight[SMALL.name], limiter.in_flight[REFUSALS.name], limiter.shed[SMALL.name]) == (2, 2, 2)
    released(limiter, SMALL, Refused.OVERLOADED)
    assert (limiter.in_flight[SMALL.name], limiter.in_flight[REFUSALS.name]) == (2, 1)
    released(limiter, SMALL)
    assert acquired(limiter, SMALL) is None
    assert limiter.shed[SMALL.name] == 2


def test_a_call_takes_no_place_before_its_request_is_there(limiter: Limiter) -> None:
    calls = [new_call(SMALL) for _ in range(3)]
    assert [limiter.arrive(call) for call in calls] == [True] * 3
    assert [limiter.acquire(call) for call in calls] == [True, True, False]
    assert calls[2].refused is Refused.OVERLOADED
    assert (limiter.in_flight[SMALL.name], limiter.in_flight[REFUSALS.name], limiter.shed[SMALL.name]) == (2, 1, 1)


def test_calls_are_counted_by_method_as_they_arrive_and_as_they_end(limiter: Limiter) -> None:
    for _ in range(3):
        acquired(limiter, SMALL)
    released(limiter, SMALL)
    released(limiter, SMALL, Refused.OVERLOADED)
    small, large = (limiter.methods[METHODS[pool.name]] for pool in (SMALL, LARGE))
    assert (small.started, small.handled[grpc.StatusCode.OK], small.handled[grpc.StatusCode.UNAVAILABLE]) == (3, 1, 1)
    assert (large.started, sum(large.handled.values())) == (0, 0)


def test_a_pool_without_a_limit_takes_all(limiter: Limiter) -> None:
    assert {acquired(limiter, LARGE) for _ in range(1000)} == {None}
    assert (limiter.in_flight[LARGE.name], limiter.in_flight[SMALL.name], limiter.shed[LARGE.name]) == (1000, 0, 0)


def test_a_pool_that_drains_takes_no_more_and_the_others_do(limiter: Limiter) -> None:
    assert not limiter.draining
    assert limiter.drain([SMALL], 0)
    assert limiter.draining
    assert acquired(limiter, SMALL) is Refused.STOPPING
    assert acquired(limiter, LARGE) is None
    assert limiter.shed[SMALL.name] == 0  # which counts overload


def test_to_drain_waits_for_what_is_in_flight(limiter: Limiter) -> None:
    acquired(limiter, SMALL)
    drained: list[bool] = []
    draining = threading.Thread(target=lambda: drained.append(limiter.drain([SMALL], PATIENCE)))
    draining.start()
    assert eventually(lambda: limiter.draining)
    assert drained == []
    released(limiter, SMALL)
    draining.join(PATIENCE)
    assert drained == [True]


def test_what_does_not_end_in_time_is_told(limiter: Limiter) -> None:
    acquired(limiter, SMALL)
    assert not limiter.drain([SMALL, LARGE], 0.02)
    assert limiter.drain([LARGE], 0.02)


def test_a_server_that_stops_waits_for_callers_to_stop_coming_but_only_for_so_long(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[None] = []
    stop = threading.Event()

    def come() -> None:
        while not stop.wait(0.001):
            acquired(limiter, LARGE)
            came.append(None)

    coming = threading.Thread(target=come)
    coming.start()
    assert eventually(lambda: came)
    before = len(came)
    limiter.wait_for_quiet(0.3)
    assert len(came) > before
    with monkeypatch.context() as patch:
        patch.setattr(pools, "PATIENCE", 0.1)
        limiter.wait_for_quiet(PATIENCE)

    monkeypatch.setattr(pools, "PATIENCE", PATIENCE)
    with monkeypatch.context() as patch:
        patch.setattr(pools, "QUIET", PATIENCE)  # or a machine that pauses were quiet
        waiting = threading.Thread(target=limiter.wait_for_quiet, args=(PATIENCE,))
        waiting.start()
        before = len(came)
        assert eventually(lambda: len(came) > before + 10)
        assert waiting.is_alive()
        stop.set()
        coming.join()
    waiting.join(PATIENCE)
    assert not waiting.is_alive()


def test_where_nobody_comes_only_those_are_waited_for_who_may_not_know_yet(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PATIENCE", PATIENCE)
    with monkeypatch.context() as patch:
        patch.setattr(pools, "QUIET", PATIENCE)
        limiter.wait_for_quiet(PATIENCE)
        waiting = threading.Thread(target=limiter.wait_for_quiet, args=(PATIENCE, time.monotonic()))
        waiting.start()
        assert waiting.is_alive()
    waiting.join(PATIENCE)
    assert not waiting.is_alive()


def test_a_call_that_is_refused_is_with_those_that_refuse() -> None:
    assert pool_of(new_call(SMALL)) is SMALL
    assert pool_of(new_call(SMALL, Refused.OVERLOADED)) is REFUSALS


def test_a_server_that_gets_no_further_thread_serves_by_those_it_has(
    start: StartServer, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = threading.Semaphore(0)

    def behavior(_request: object, _context: object) -> GetUserResponse:
        entered.release()
        gate.wait(PATIENCE)
        return GetUserResponse()

    running = start(threads=2)
    running.servicer.behavior = behavior
    first = running.stub.GetUser.future(GetUserRequest())
    assert entered.acquire(timeout=PATIENCE)
    refused = threading.Event()

    def refuse(_thread: threading.Thread) -> None:
        refused.set()
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        second = running.stub.GetUser.future(GetUserRequest())
        assert refused.wait(PATIENCE)
    gate.set()
    assert first.result(PATIENCE) == second.result(PATIENCE) == GetUserResponse()
