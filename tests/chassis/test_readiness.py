from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from handfast.server.chassis.operations import readiness
from handfast.users.v1 import users_pb2

from .conftest import Running, eventually, new_server, new_users

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
FOUND = users_pb2.GetUserResponse()
Checking = Callable[[Callable[[], None]], Running]


@pytest.fixture
def checking(log: Any, writer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checking]:
    """Starts a server with a check."""
    monkeypatch.setattr(readiness, "INTERVAL", 0.01)
    monkeypatch.setattr(readiness, "PATIENCE", 0.2)
    started = []

    def start(check: Callable[[], None]) -> Running:
        servicer = new_users()
        server = new_server(servicer, checks=[check])
        server.start()
        started.append(Running(servicer, server, log, writer))
        return started[-1]

    yield start
    for running in started:
        running.channel.close()
        running.server.stop()


def comes_to(running: Running, status: int) -> bool:
    """Whether the server comes to say so of itself as a whole and of its service, by health and in its metrics."""
    names = ("", "handfast.users.v1.UserService")
    ready = 1.0 if status == SERVING else 0.0
    return bool(
        eventually(
            lambda: (
                all(running.health.Check(HealthCheckRequest(service=name)).status == status for name in names)
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


def test_a_check_that_does_not_come_back_counts_as_failed(checking: Checking, gate: threading.Event) -> None:
    def check() -> None:
        gate.wait(20)

    running = checking(check)
    assert comes_to(running, NOT_SERVING)
    gate.set()
    assert comes_to(running, SERVING)


def test_a_check_that_succeeds_during_the_stop_does_not_bring_health_back(
    checking: Checking, gate: threading.Event
) -> None:
    def check() -> None:
        gate.wait(20)

    running = checking(check)
    assert comes_to(running, NOT_SERVING)
    watch = running.health.Watch(HealthCheckRequest())
    assert next(watch).status == NOT_SERVING
    running.server.stop()
    gate.set()
    assert SERVING not in [reply.status for reply in watch]
