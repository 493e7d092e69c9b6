"""Calls that are held open, by watchers, tools or callers that hang, keep nobody else from being answered."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from handfast.server.chassis import cancellation
from handfast.server.chassis import server as server_module
from handfast.server.chassis.call import Pool
from handfast.server.chassis.logs.writer import LogWriter
from handfast.server.chassis.operations import endpoint, readiness
from handfast.server.chassis.pipeline import pools
from handfast.server.chassis.server import Server
from handfast.server.process.settings import ServerSettings
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests import http2
from tests.eventually import PATIENCE, eventually

from .conftest import CHECKING_HEALTH, Failure, Running, StartServer, new_users
from .made_up import service_of_texts

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
MANY = 300
PER_CONNECTION = 50
QUESTIONS = [ServerReflectionRequest(list_services="*")]
NAME = "handfast.test.Held"
METHODS = {"Echo": (False, False), "Spell": (False, True), "Join": (True, False), "Double": (True, True)}
TYPES = {"Echo": "unary", "Spell": "server_stream", "Join": "client_stream", "Double": "bidi_stream"}
THREADS = 2
LIMIT, LONG = 0.5, 600.0
"""Seconds that a call may wait for its caller."""


class Held:
    def __init__(self) -> None:
        self.working = threading.Semaphore(0)
        self.gate = threading.Event()

    def Echo(self, request: StringValue, _context: grpc.ServicerContext) -> StringValue:
        if request.value == "work":
            self.working.release()
            self.gate.wait(PATIENCE)
        return request

    def Spell(self, request: StringValue, _context: grpc.ServicerContext) -> Iterator[StringValue]:
        for letter in request.value:
            yield StringValue(value=letter)

    def Join(self, requests: Iterator[StringValue], _context: grpc.ServicerContext) -> StringValue:
        return StringValue(value="".join(request.value for request in requests))

    def Double(self, requests: Iterator[StringValue], _context: grpc.ServicerContext) -> Iterator[StringValue]:
        for request in requests:
            yield StringValue(value=2 * request.value)


@pytest.fixture
def servicer() -> Held:
    return Held()


@pytest.fixture
def start_held(servicer: Held, log: io.BytesIO, writer: LogWriter) -> Iterator[Callable[[float], Running]]:
    """Starts a server whose calls may wait so many seconds for their callers."""
    with ExitStack() as closing:

        def start(limit: float) -> Running:
            settings = ServerSettings(
                name="test", listen="127.0.0.1:0", threads=THREADS, grace=0.3, stream_idle_timeout=limit
            )
            server = Server(settings, domain="handfast.test", services=[service_of_texts(NAME, METHODS, servicer)])
            server.start()
            closing.callback(server.stop)
            running = Running(new_users(), server, log, writer)
            closing.callback(running.channel.close)
            return running

        yield start


@pytest.fixture
def held(start_held: Callable[[float], Running]) -> Running:
    return start_held(LIMIT)


@pytest.fixture
def requests() -> Iterator[Callable[..., Iterator[bytes]]]:
    """Requests after which nothing comes, nor an end, until the test ends."""
    end = threading.Event()

    def some(*texts: str) -> Iterator[bytes]:
        for text in texts:
            yield StringValue(value=text).SerializeToString()
        end.wait(2 * PATIENCE)

    yield some
    end.set()


def call(held: Running, method: str, requests: Iterator[bytes], request_id: str) -> Any:
    """A call whose requests stream, whatever the method is."""
    return held.channel.stream_stream(f"/{NAME}/{method}")(requests, metadata=(("x-request-id", request_id),))


def is_answered(call: Callable[[], Any]) -> bool:
    """Whether a call that keeps nobody waiting is answered in the end: a pause of the machine may look as if it did."""

    def is_now() -> bool:
        try:
            call()
        except grpc.RpcError:
            return False
        return True

    return bool(eventually(is_now))


def echo(held: Running) -> bytes:
    text = StringValue(value="hello").SerializeToString()
    reply: bytes = held.channel.unary_unary(f"/{NAME}/Echo")(text, timeout=2 * PATIENCE)
    return reply


def cut(pending: Any) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        list(pending)
    return Failure(caught.value)


@pytest.mark.parametrize("receives_first", [True, False], ids=["a thread comes after the request", "a thread waits"])
@pytest.mark.parametrize("method", METHODS)
def test_a_request_that_never_comes_holds_no_thread_for_long(
    held: Running,
    requests: Callable[..., Iterator[bytes]],
    method: str,
    receives_first: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "_IS_AS_EXPECTED", receives_first)
    labels = f'grpc_code="DeadlineExceeded",grpc_method="{method}",grpc_service="{NAME}",grpc_type="{TYPES[method]}"'
    pending = [
        call(held, method, requests(), f"silent-{method}-{receives_first}-{number}") for number in range(THREADS)
    ]
    assert is_answered(lambda: echo(held))
    for number, each in enumerate(pending):
        failure = cut(each)
        assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "waited 0.5 seconds for the caller" in failure.message
        line = held.call_log(f"silent-{method}-{receives_first}-{number}")
        assert (line["grpc.code"], line["error.message"]) == ("DeadlineExceeded", failure.message)
    assert eventually(lambda: len(held.server.canceller.running) == 0)
    assert held.metric(f"grpc_server_handled_total{{{labels}}}") == THREADS


@pytest.mark.parametrize("method", ["Echo", "Spell"])
def test_a_single_request_that_never_comes_holds_no_thread_at_all(
    start_held: Callable[[float], Running], requests: Callable[..., Iterator[bytes]], method: str
) -> None:
    held = start_held(LONG)
    pending = [call(held, method, requests(), f"awaited-{method}-{number}") for number in range(2 * THREADS)]
    assert echo(held)
    for each in pending:
        each.cancel()
    assert {held.call_log(f"awaited-{method}-{number}")["grpc.code"] for number in range(2 * THREADS)} == {"Canceled"}


def test_of_many_requests_that_do_not_come_none_is_awaited_for_long(
    start_held: Callable[[float], Running], requests: Callable[..., Iterator[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "PATIENCE_WITH_MANY", LIMIT)
    monkeypatch.setattr(Pool, "most_awaited", 4)
    held = start_held(LONG)
    pending = [call(held, "Echo", requests(), f"one-of-many-{number}") for number in range(5)]
    ended = (eventually(lambda: [each for each in pending if each.done()]) or [])[0]
    failure = cut(ended)
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "waited 0.5 seconds for the caller" in failure.message
    for each in pending:
        each.cancel()


@pytest.mark.parametrize("method", ["Join", "Double"])
def test_nor_does_one_that_does_not_come_after_others(
    held: Running, requests: Callable[..., Iterator[bytes]], method: str
) -> None:
    pending = [call(held, method, requests("a", "b"), f"stalled-{method}-{number}") for number in range(THREADS)]
    assert is_answered(lambda: echo(held))
    assert {cut(each).code for each in pending} == {grpc.StatusCode.DEADLINE_EXCEEDED}


@pytest.mark.parametrize("method", ["Spell", "Join", "Double"])
def test_nor_does_a_reply_that_nobody_takes(held: Running, method: str) -> None:
    request = StringValue(value="abc").SerializeToString()
    with ExitStack() as unread:
        for number in range(THREADS):
            headers = [(b"x-request-id", f"untaken-{method}-{number}".encode())]
            unread.enter_context(http2.unread(held.server.address, f"/{NAME}/{method}".encode(), request, headers))
        assert is_answered(lambda: echo(held))
        for number in range(THREADS):
            assert held.call_log(f"untaken-{method}-{number}")["grpc.code"] == "DeadlineExceeded"
        assert eventually(lambda: held.metric('handfast_calls_in_flight{pool="calls"}') == 0)


def test_a_handler_may_work_for_longer(held: Running, servicer: Held) -> None:
    text = StringValue(value="work").SerializeToString()

    def at_work() -> Any:
        pending = held.channel.unary_unary(f"/{NAME}/Echo").future(text, timeout=2 * PATIENCE)
        return pending if servicer.working.acquire(timeout=4 * LIMIT) else None

    pending: Any = eventually(at_work)
    time.sleep(2 * LIMIT)
    servicer.gate.set()
    assert pending.result() == text


@pytest.fixture
def connections() -> Iterator[Callable[..., Any]]:
    """Channels with a connection of their own, as streams of one are limited."""
    with ExitStack() as closing:
        yield lambda address, options=(): closing.enter_context(
            grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1), *options))
        )


def test_watchers_cost_no_thread_are_all_told_and_keep_clients_that_check_health_working(
    start: StartServer, connections: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "INTERVAL", 0.01)
    away = threading.Event()

    def check() -> None:
        if away.is_set():
            raise ConnectionError("gone")

    running = start(checks=[check])
    assert running.health.Check(HealthCheckRequest()).status == SERVING
    threads = threading.active_count()
    watches: list[Any] = []
    for _ in range(MANY // PER_CONNECTION):
        health: Any = HealthStub(connections(running.server.address))
        watches += [health.Watch(HealthCheckRequest()) for _ in range(PER_CONNECTION)]
    assert {next(watch).status for watch in watches} == {SERVING}
    assert running.health.Check(HealthCheckRequest(), timeout=PATIENCE).status == SERVING
    assert eventually(lambda: running.metric('handfast_calls_in_flight{pool="health"}') == MANY)
    assert threading.active_count() < threads + MANY / 2
    running.servicer.behavior = lambda request, context: GetUserResponse()
    users = UserServiceStub(connections(running.server.address, CHECKING_HEALTH))
    assert users.GetUser(GetUserRequest(), timeout=PATIENCE) == GetUserResponse()
    away.set()
    assert {next(watch).status for watch in watches} == {NOT_SERVING}
    for watch in watches:
        watch.cancel()
    assert eventually(lambda: running.metric('handfast_calls_in_flight{pool="health"}') == 1)  # the client's


def test_nothing_is_kept_of_a_watch_whose_request_did_not_come(start: StartServer) -> None:
    running = start()
    without_request = running.channel.stream_stream("/grpc.health.v1.Health/Watch")(iter(()))
    assert cut(without_request).code is grpc.StatusCode.UNIMPLEMENTED
    assert eventually(lambda: running.metric('handfast_calls_in_flight{pool="health"}') == 0)
    assert len(running.server.canceller.running) == 0


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_a_caller_that_leaves_before_its_request_has_come_is_recorded_as_one_that_left(
    start: StartServer, requests: Callable[..., Iterator[bytes]], method: str
) -> None:
    """grpcio answers that a request is missing, and may do so before it knows that the caller left: hence so many."""
    running = start()
    silent = running.channel.stream_stream(f"/grpc.health.v1.Health/{method}")
    for _ in range(PER_CONNECTION):
        pending = silent(requests())
        assert eventually(lambda: running.metric('handfast_calls_awaited{pool="health"}') == 1)
        pending.cancel()
        assert eventually(lambda: running.metric('handfast_calls_awaited{pool="health"}') == 0)
        assert eventually(lambda: running.metric('handfast_calls_in_flight{pool="health"}') == 0)
    kind = {"Check": "unary", "Watch": "server_stream"}[method]
    labels = f'grpc_code="Canceled",grpc_method="{method}",grpc_service="grpc.health.v1.Health",grpc_type="{kind}"'
    assert running.metric(f"grpc_server_handled_total{{{labels}}}") == PER_CONNECTION


def test_checks_are_answered_beside_those_that_never_come(
    start: StartServer, requests: Callable[..., Iterator[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        server_module, "_HEALTH_POOL", replace(server_module._HEALTH_POOL, threads=1, stream_idle_timeout=LONG)
    )
    monkeypatch.setattr(cancellation, "PATIENCE_WITH_MANY", LONG)
    running = start()
    check = running.channel.stream_stream("/grpc.health.v1.Health/Check")
    pending = [check(requests()) for _ in range(PER_CONNECTION)]
    assert eventually(lambda: running.metric('handfast_calls_awaited{pool="health"}') == PER_CONNECTION)
    assert running.health.Check(HealthCheckRequest(), timeout=PATIENCE).status == SERVING
    for each in pending:
        each.cancel()


def test_a_connection_for_metrics_that_asks_for_nothing_is_closed(
    start: StartServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(endpoint._Handler, "timeout", 0.1)
    running = start()
    with socket.create_connection(("127.0.0.1", running.server.metrics_port), PATIENCE) as connection:
        assert connection.recv(1) == b""
    assert capfd.readouterr().err == ""


def ask_all(ask: Callable[..., Any]) -> list[ServerReflectionResponse]:
    return list(ask(iter(QUESTIONS), timeout=2 * PATIENCE))


def reflection(channel: Any, version: str) -> Callable[..., Any]:
    method: Callable[..., Any] = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        ServerReflectionRequest.SerializeToString,
        ServerReflectionResponse.FromString,
    )
    return method


@pytest.mark.parametrize("versions", [["v1"], ["v1alpha"], ["v1", "v1alpha"]])
def test_reflection_answers_beside_streams_that_are_idle(
    start: StartServer, connections: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, versions: Sequence[str]
) -> None:
    monkeypatch.setattr(
        server_module, "_REFLECTION_POOL", replace(server_module._REFLECTION_POOL, stream_idle_timeout=LIMIT)
    )
    running = start()
    end = threading.Event()

    def idle() -> Iterator[ServerReflectionRequest]:
        yield from QUESTIONS
        end.wait(2 * PATIENCE)

    streams = []
    for number in range(MANY // PER_CONNECTION):
        ask = reflection(connections(running.server.address), versions[number % len(versions)])
        streams += [ask(idle()) for _ in range(PER_CONNECTION)]
    for version in ("v1", "v1alpha"):
        assert is_answered(partial(ask_all, reflection(running.channel, version)))
    end.set()
    for stream in streams:
        stream.cancel()
