"""Far more calls than a server takes, by callers of several kinds: each is answered, and counted as it was answered."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo

from benchmarks.wire import Wire
from handfast.server.chassis.logs.writer import GO_NAMES
from handfast.server.chassis.pipeline import refusal
from handfast.server.chassis.pipeline.pools import Limiter
from handfast.server.chassis.server import Server, Service
from handfast.server.process.settings import ServerSettings
from handfast.users.v1 import users_pb2, users_pb2_grpc
from tests.eventually import PATIENCE, eventually
from tests.project.commands import find_tool, succeed

from .conftest import USERS, Failure, Running, new_users

THREADS, QUEUE = 2, 1
METHOD = "handfast.users.v1.UserService/GetUser"
FOUND = users_pb2.GetUserResponse()
STREAMS = 125
"""Calls that a bare HTTP/2 client keeps on each connection; the server allows three more."""


@pytest.fixture
def own(log: Any, writer: Any) -> Iterator[Running]:
    """A server that takes three calls at once."""
    servicer = new_users()
    servicer.behavior = lambda _request, _context: FOUND
    add = users_pb2_grpc.add_UserServiceServicer_to_server
    server = Server(
        ServerSettings(name="users", listen="127.0.0.1:0", threads=THREADS, queue=QUEUE),
        domain="handfast.users",
        services=[Service(USERS, add, servicer, "handfast.users")],
    )
    server.start()
    running = Running(servicer, server, log, writer)
    yield running
    running.channel.close()
    server.stop()


def counted(own: Running) -> Counter[str]:
    """The ends of GetUsers by code, as metrics have them."""
    names = {name: code.name for code, name in GO_NAMES.items()}
    return +Counter(
        {
            names[sample.labels["grpc_code"]]: int(sample.value)
            for metric in own.server.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "grpc_server_handled_total" and sample.labels["grpc_method"] == "GetUser"
        }
    )


def in_flight(own: Running, pool: str) -> float:
    return own.server.metrics.registry.get_sample_value("handfast_calls_in_flight", {"pool": pool}) or 0.0


def shed(own: Running) -> float:
    return own.server.metrics.registry.get_sample_value("handfast_calls_shed_total", {"pool": "calls"}) or 0.0


def check(own: Running, seen: Counter[str]) -> None:
    """What callers saw is what was counted, and they saw nothing but these two, of which there were both."""
    assert set(seen) == {"OK", "RESOURCE_EXHAUSTED"}
    assert eventually(lambda: counted(own) == seen), (counted(own), seen)
    assert eventually(lambda: in_flight(own, "calls") == in_flight(own, "refusals") == 0)


@pytest.mark.parametrize("connections", [1, 12])
def test_callers_that_come_again_at_once_are_answered_each_time(
    own: Running, monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    """On one connection, grpcio by default refuses streams while it clears away earlier ones; on many, it drops what
    it has to keep until the server comes to it, which here takes its time."""
    comes_to_them = threading.Event()
    arrive = Limiter.arrive
    monkeypatch.setattr(
        Limiter, "arrive", lambda limiter, call: (comes_to_them.wait(PATIENCE), arrive(limiter, call))[1]
    )
    seen: Counter[str] = Counter()
    left, running = 1500, 0
    with closing(Wire(own.server.address, f"/{METHOD}", connections)) as wire:
        threading.Timer(0.5, comes_to_them.set).start()
        while left or running:
            while left and running < connections * STREAMS and wire.call(b""):
                left, running = left - 1, running + 1
            for ended in wire.ended(PATIENCE):
                running -= 1
                seen[ended.code] += 1
                assert (ended.code == "OK") is (ended.retry_after == 0), ended
    check(own, seen)


@pytest.mark.parametrize("connections", [1, 10])
def test_grpc_go_callers_are_answered_each_time(own: Running, connections: int) -> None:
    ghz = find_tool("ghz")
    if ghz is None:
        pytest.skip("ghz is neither in .tools/bin nor on the PATH; `make ghz` builds it where Go is installed")
    load = ("--concurrency", "200", "--connections", str(connections), "--total", "2000")
    call = ("--call", METHOD, "--data", "{}", own.server.address)
    report = json.loads(succeed((ghz, "--insecure", "--format", "json", *load, *call)))
    names = {name: code.name for code, name in GO_NAMES.items()}
    check(own, Counter({names[name]: count for name, count in report["statusCodeDistribution"].items()}))


def test_calls_on_a_channel_of_grpcio_are_answered_each_time(own: Running) -> None:
    calls = [own.stub.GetUser.future(users_pb2.GetUserRequest()) for _ in range(500)]
    seen: Counter[str] = Counter()
    for call in calls:
        error: Any = call.exception(PATIENCE)
        seen["OK" if error is None else error.code().name] += 1
        assert error is None or Failure(error).details_of(RetryInfo)
    check(own, seen)


@pytest.fixture
def full(own: Running) -> Iterator[threading.Event]:
    """The server has all the calls that it takes, until this is set."""
    gate = threading.Event()

    def wait(_request: users_pb2.GetUserRequest, _context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        gate.wait(PATIENCE)
        return FOUND

    own.servicer.behavior = wait
    taken = [own.stub.GetUser.future(users_pb2.GetUserRequest()) for _ in range(THREADS + QUEUE)]
    assert eventually(lambda: in_flight(own, "calls") == len(taken))
    yield gate
    gate.set()
    for call in taken:
        call.exception(PATIENCE)


def ends(own: Running, number: int, *, first: Callable[[], object], timeout: float = PATIENCE) -> list[Any]:
    """The errors of so many calls. They are begun, and `first` is done, before any is looked at."""
    calls = [own.stub.GetUser.future(users_pb2.GetUserRequest(), timeout=timeout) for _ in range(number)]
    first()
    return [call.exception(2 * PATIENCE) for call in calls]


def test_a_stop_tells_all_that_wait_to_be_refused(
    own: Running, full: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal, "_PAUSE", 0.2)  # so that they wait

    def stop() -> None:
        # All have come, or one that comes as a place is free would get it, and one that comes late would be cancelled.
        assert eventually(lambda: shed(own) == 100)
        assert in_flight(own, "refusals") > 0
        full.set()
        own.server.stop()

    for error in ends(own, 100, first=stop):
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert Failure(error).details_of(RetryInfo)
    assert in_flight(own, "refusals") == 0


def test_a_deadline_that_passes_before_a_call_is_refused_is_counted_as_such(
    own: Running, full: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal, "_PAUSE", 1.0)
    seen = Counter(error.code().name for error in ends(own, 50, first=lambda: None, timeout=0.5))
    assert seen["DEADLINE_EXCEEDED"]
    assert eventually(lambda: in_flight(own, "refusals") == 0)
    assert counted(own)["DEADLINE_EXCEEDED"]
