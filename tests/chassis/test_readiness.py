from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from prometheus_client import CollectorRegistry

from handfast.server.chassis.operations import readiness
from handfast.server.chassis.operations.health import WATCH, Health
from handfast.server.chassis.operations.readiness import Readiness
from handfast.users.v1 import users_pb2
from tests import http2
from tests.eventually import eventually

from .conftest import Running, StartServer

HealthListRequest: Any = health_pb2.HealthListRequest  # type: ignore[attr-defined]  # its types leave it out
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
NO_CONTEXT: Any = None
FOUND = users_pb2.GetUserResponse()
Checking = Callable[[Callable[[], None]], Running]


@pytest.fixture
def checking(start: StartServer, monkeypatch: pytest.MonkeyPatch) -> Checking:
    """Starts a server with a check."""
    monkeypatch.setattr(readiness, "INTERVAL", 0.01)
    monkeypatch.setattr(readiness, "PATIENCE", 0.2)
    return lambda check: start(checks=[check])


def comes_to(running: Running, status: int) -> bool:
    """Whether the server comes to say so of itself as a whole and of its service, by health and in its metrics."""
    names = ("", "readiness", "handfast.users.v1.UserService")
    ready = 1.0 if status == SERVING else 0.0
    return bool(
        eventually(
            lambda: (
                all(
                    running.health.Check(HealthCheckRequest(service=name), timeout=5).status == status for name in names
                )
                and running.metric("handfast_ready") == ready
            )
        )
    )


def test_health_follows_a_check_to_and_fro_and_calls_are_served_all_the_while(checking: Checking) -> None:
    away = threading.Event()

    def check() -> None:
        if away.is_set():
            raise ConnectionError("gone")

    running = checking(check)
    assert comes_to(running, SERVING)
    away.set()
    assert comes_to(running, NOT_SERVING)
    assert running.get_user(lambda _request, _context: FOUND) == FOUND
    away.clear()
    assert comes_to(running, SERVING)


def test_a_server_is_alive_though_it_is_not_ready(checking: Checking) -> None:
    def check() -> None:
        raise ConnectionError("gone")

    running = checking(check)
    assert comes_to(running, NOT_SERVING)
    watch = running.health.Watch(HealthCheckRequest(service="liveness"), timeout=20)
    assert next(watch).status == SERVING
    assert running.health.Check(HealthCheckRequest(service="liveness")).status == SERVING
    listed = running.health.List(HealthListRequest()).statuses
    assert {name for name, answer in listed.items() if answer.status == SERVING} == {"liveness"}
    running.server.stop()
    assert list(watch) == []


def test_a_check_that_does_not_come_back_counts_as_failed(checking: Checking, gate: threading.Event) -> None:
    def check() -> None:
        gate.wait(20)

    running = checking(check)
    assert comes_to(running, NOT_SERVING)
    gate.set()
    assert comes_to(running, SERVING)


def test_a_check_that_fails_without_a_word_counts_as_failed(checking: Checking) -> None:
    def check() -> None:
        raise ConnectionError

    assert comes_to(checking(check), NOT_SERVING)


def test_watchers_that_do_not_read_hold_up_nothing(checking: Checking) -> None:
    away = threading.Event()

    def check() -> None:
        if away.is_set():
            raise ConnectionError("gone")

    running = checking(check)
    ids = [f"unread-{number}" for number in range(5)]
    with ExitStack() as watching:
        for id_ in ids:
            headers = [(b"x-request-id", id_.encode())]
            watching.enter_context(http2.unread(running.server.address, WATCH.encode(), b"", headers))
        for status in (SERVING, NOT_SERVING, SERVING):
            away.set() if status == NOT_SERVING else away.clear()
            assert comes_to(running, status)
            reading = running.health.Watch(HealthCheckRequest(), timeout=20, metadata=[("x-request-id", f"{status}")])
            assert next(reading).status == status
            reading.cancel()
        stopping = threading.Thread(target=running.server.stop, daemon=True)
        stopping.start()
        stopping.join(10)
        assert not stopping.is_alive()
        assert [running.call_log(id_)["grpc.code"] for id_ in ids] == ["Unavailable"] * len(ids)


class Stopping:
    """Health and readiness without a server, whose stop would end what asks them."""

    def __init__(self, check: Callable[[], None], health: Health) -> None:
        self.health, self._registry = health, CollectorRegistry()
        self.readiness = Readiness(health, [check], self._registry)

    @property
    def status(self) -> int:
        return self.health.Check(HealthCheckRequest(), NO_CONTEXT).status

    @property
    def gauge(self) -> float | None:
        return self._registry.get_sample_value("handfast_ready")


def no_check_runs() -> bool:
    return not any(thread.name == "readiness" for thread in threading.enumerate())


def test_a_check_that_succeeds_during_the_stop_does_not_bring_health_back(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.setattr(readiness, "INTERVAL", 0.01)
    failed, back = threading.Event(), threading.Event()

    def check() -> None:
        if not failed.is_set():
            failed.set()
            raise ConnectionError("gone")
        back.set()
        gate.wait(20)

    stopping = Stopping(check, Health([]))
    stopping.readiness.start()
    assert back.wait(5)
    assert (stopping.status, stopping.gauge) == (NOT_SERVING, 0)
    stopping.readiness.stop()
    gate.set()
    assert eventually(no_check_runs)
    assert (stopping.status, stopping.gauge) == (NOT_SERVING, 0)


def test_a_server_that_becomes_ready_as_it_stops_counts_as_stopped(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.setattr(readiness, "INTERVAL", 0.01)
    failed, turning = threading.Event(), threading.Event()

    class Slow(Health):
        def turn(self, *, serving: bool, for_good: bool = False) -> None:
            if serving and failed.is_set():
                turning.set()
                gate.wait(20)
            super().turn(serving=serving, for_good=for_good)

    def check() -> None:
        if not failed.is_set():
            failed.set()
            raise ConnectionError("gone")

    stopping = Stopping(check, Slow([]))
    stopping.readiness.start()
    assert turning.wait(5)
    stop = threading.Thread(target=stopping.readiness.stop, daemon=True)
    stop.start()
    stop.join(0.2)  # if it does not wait for the turn, it is through by then
    gate.set()
    stop.join(5)
    assert eventually(no_check_runs)
    assert (stopping.status, stopping.gauge) == (NOT_SERVING, 0)


def test_health_that_has_stopped_does_not_come_back() -> None:
    health = Health([])
    health.turn(serving=True)
    health.turn(serving=False, for_good=True)
    health.turn(serving=True)
    assert health.Check(HealthCheckRequest(), NO_CONTEXT).status == NOT_SERVING
