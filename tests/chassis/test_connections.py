"""How long connections last, and what becomes of those whose other end is gone."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest

from handfast.client import aio, channel
from handfast.server.chassis import connections
from handfast.server.chassis.operations.health import WATCH
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests import http2
from tests.eventually import PATIENCE

from .conftest import CHECKING_HEALTH, Failure, Running, StartServer


def note_peers(running: Running) -> set[str]:
    """The connections that GetUser will have been called by."""
    peers: set[str] = set()

    def behave(request: GetUserRequest, context: grpc.ServicerContext) -> GetUserResponse:
        peers.add(context.peer())
        return GetUserResponse()

    running.servicer.behavior = behave
    return peers


def calls_go_on(address: str, enough: Callable[[], bool]) -> None:
    with channel(address) as opened:
        users = UserServiceStub(opened)
        while not enough():
            for pending in [users.GetUser.future(GetUserRequest()) for _ in range(10)]:
                pending.result()


def calls_go_on_while_health_is_good(address: str, enough: Callable[[], bool]) -> None:
    with grpc.insecure_channel(address, CHECKING_HEALTH) as opened:
        users = UserServiceStub(opened)
        while not enough():
            users.GetUser(GetUserRequest(), timeout=PATIENCE)


def calls_go_on_asynchronously(address: str, enough: Callable[[], bool]) -> None:
    async def call() -> None:
        async with aio.channel(address) as opened:
            users: Any = UserServiceStub(opened)
            while not enough():
                await asyncio.gather(*(users.GetUser(GetUserRequest()) for _ in range(10)))

    asyncio.run(call())


@pytest.mark.parametrize("calls_go_on", [calls_go_on, calls_go_on_asynchronously, calls_go_on_while_health_is_good])
def test_clients_connect_anew_when_their_connection_is_old_and_lose_no_call(
    start: StartServer, calls_go_on: Callable[[str, Callable[[], bool]], None]
) -> None:
    running = start(max_connection_age=0.2)
    peers = note_peers(running)
    calls_go_on(running.server.address, lambda: len(peers) > 3)


def test_a_server_asks_for_signs_of_life_and_lets_clients_ask_as_often_as_the_docs_say(start: StartServer) -> None:
    settings = start(max_connection_age=1.5, max_connection_age_grace=2.5).server.settings
    assert dict(connections.connection_options(settings)) == {
        "grpc.server_handshake_timeout_ms": 10_000,
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.http2.ping_timeout_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.min_ping_interval_without_data_ms": 500,
        "grpc.http2.bdp_probe": 0,
        "grpc.max_allowed_incoming_connections": connections.max_connections(settings),
        "grpc.max_connection_age_ms": 1_500,
        "grpc.max_connection_age_grace_ms": 2_500,
    }


def test_an_age_of_nothing_is_none(start: StartServer) -> None:
    options = dict(connections.connection_options(start(max_connection_age=0).server.settings))
    assert options["grpc.max_connection_age_ms"] == 2**31 - 1  # which gRPC takes for never


def test_a_call_that_outlives_its_connection_and_its_grace_is_cut(start: StartServer) -> None:
    running = start(max_connection_age=0.2, max_connection_age_grace=0.2)
    watch = running.health.Watch(HealthCheckRequest(), metadata=(("x-request-id", "outlives"),))
    with pytest.raises(grpc.RpcError) as caught:
        list(watch)
    assert Failure(caught.value).code is grpc.StatusCode.UNAVAILABLE
    assert running.call_log("outlives")["grpc.code"] == "Canceled"


def a_watch(running: Running, request_id: bytes) -> socket.socket:
    """A connection with a call on it that lasts, in frames."""
    connection = http2.connect(running.server.address)
    headers = http2.header_block(running.server.address, WATCH.encode(), [(b"x-request-id", request_id)])
    opening = http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, b"")
    connection.sendall(opening + http2.call_frames(1, headers, b""))
    return connection


def kinds(connection: socket.socket) -> Iterator[tuple[int, int]]:
    """Kind and flags of each frame that comes, until the connection ends."""
    with connection.makefile("rb") as frames:
        while head := frames.read(http2.FRAME_HEAD):
            frames.read(int.from_bytes(head[:3], "big"))
            yield head[3], head[4]


def test_a_client_that_is_gone_without_a_word_is_let_go(start: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEPALIVE_TIME", 0.5)
    monkeypatch.setattr(connections, "KEEPALIVE_TIMEOUT", 0.5)
    running = start()
    with a_watch(running, b"gone") as connection:
        assert (http2.PING, 0) in kinds(connection)  # which nobody answers
        assert running.call_log("gone")["grpc.code"] == "Canceled"


def ping(connection: socket.socket, frames: Iterator[tuple[int, int]]) -> bool:
    """Whether the server answers one. If it says GOAWAY, it does not."""
    connection.sendall(http2.frame(http2.PING, 0, 0, bytes(8)))
    for kind, flags in frames:
        if kind == http2.GOAWAY:
            return False
        if (kind, flags) == (http2.PING, http2.ACK):
            return True
    return False


@pytest.mark.parametrize("with_call", [True, False], ids=["during a call", "without calls"])
def test_clients_may_ask_for_signs_of_life(
    start: StartServer, monkeypatch: pytest.MonkeyPatch, with_call: bool
) -> None:
    monkeypatch.setattr(connections, "MIN_PING_INTERVAL", 0.01)
    running = start()
    with a_watch(running, b"asks") if with_call else http2.connect(running.server.address) as connection:
        if not with_call:
            connection.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, b""))
        frames = kinds(connection)
        for _ in range(6):
            time.sleep(2 * connections.MIN_PING_INTERVAL)  # what a client has to leave between two
            assert ping(connection, frames)


def test_clients_that_ask_all_the_time_are_turned_away(start: StartServer) -> None:
    running = start()
    with a_watch(running, b"pesters") as connection:
        frames = kinds(connection)
        # What the server sends in between, such as the reply, lets a client begin anew.
        assert not all(ping(connection, frames) for _ in range(100))
