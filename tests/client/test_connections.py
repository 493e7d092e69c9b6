"""Connections that go silent are given up for new ones, and none to this machine goes by a proxy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handfast.client import DeadlineExceeded, Unavailable, aio, channel, options
from handfast.client.addresses import is_on_this_machine
from handfast.users.v1.users_pb2 import GetUserRequest
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.eventually import PATIENCE, eventually
from tests.silence import Way, way_to

from .backend import Backend, serve

ADA = GetUserRequest(user_id="ada")
KEEPALIVE = 1.0
SHORT = 0.3
"""Seconds that a call may take: shorter than the time after which a server is asked for a sign of life."""


@pytest.fixture
def way(backend: Backend) -> Iterator[Way]:
    with way_to(backend.address) as way:
        yield way


def comes_back(address: str, silence: Callable[[], None], timeout: float) -> None:
    with channel(address, keepalive_seconds=KEEPALIVE) as opened:
        users = UserServiceStub(opened)
        users.GetUser(ADA)
        silence()
        assert eventually(lambda: _answers(users, timeout), timeout=2 * PATIENCE)


def _answers(users: UserServiceStub, timeout: float) -> bool:
    try:
        users.GetUser(ADA, timeout=timeout)
    except (DeadlineExceeded, Unavailable):
        return False
    return True


def comes_back_asynchronously(address: str, silence: Callable[[], None], timeout: float) -> None:
    async def call() -> None:
        async with aio.channel(address, keepalive_seconds=KEEPALIVE) as opened:
            users: Any = UserServiceStub(opened)
            await users.GetUser(ADA)
            silence()
            async with asyncio.timeout(2 * PATIENCE):
                while True:
                    try:
                        await users.GetUser(ADA, timeout=timeout)
                    except (DeadlineExceeded, Unavailable):
                        continue
                    return

    asyncio.run(call())


@pytest.mark.parametrize("comes_back", [comes_back, comes_back_asynchronously])
@pytest.mark.parametrize("timeout", [SHORT, PATIENCE], ids=["short calls", "long calls"])
def test_a_connection_that_goes_silent_is_given_up_for_another(
    way: Way, comes_back: Callable[..., None], timeout: float
) -> None:
    comes_back(way.address, way.silence, timeout)
    assert way.connections == 2


def test_a_connection_that_goes_silent_between_calls_is_given_up_before_the_next(way: Way) -> None:
    with channel(way.address, keepalive_seconds=KEEPALIVE) as opened:
        users = UserServiceStub(opened)
        users.GetUser(ADA)
        way.silence()
        assert eventually(lambda: way.connections == 2)
        users.GetUser(ADA)


@pytest.mark.parametrize(
    ("address", "seconds"), [("127.0.0.1:50051", 10.0), ("users:50051", 1.0), ("127.0.0.1:1,127.0.0.1:2", 1.0)]
)
def test_servers_on_the_chassis_are_asked_sooner_where_there_may_be_others(address: str, seconds: float) -> None:
    assert options.keepalive_on_chassis(address) == seconds
    chosen = dict(options.plain(address))
    assert chosen["grpc.keepalive_time_ms"] == chosen["grpc.http2.ping_timeout_ms"] == 10_000  # of any server


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What the environment names as its proxy: it takes connections, and does nothing with them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.settimeout(PATIENCE)
        yield listener


@pytest.mark.parametrize(
    "form", ["127.0.0.1:{}", "localhost:{}", "dns:///localhost:{}", "dns:localhost:{}", "ipv4:127.0.0.1:{}"]
)
def test_no_proxy_stands_between_a_client_and_this_machine(backend: Backend, proxy: socket.socket, form: str) -> None:
    address = form.format(backend.address.rpartition(":")[2])
    with channel(address) as opened:
        UserServiceStub(opened).GetUser(ADA)

    async def call() -> None:
        async with aio.channel(address) as opened:
            users: Any = UserServiceStub(opened)
            await users.GetUser(ADA)

    asyncio.run(call())


@pytest.mark.parametrize("scheme", ["unix:{}", "unix-abstract:{}"])
def test_no_proxy_stands_between_a_client_and_a_socket(tmp_path: Path, proxy: socket.socket, scheme: str) -> None:
    address = scheme.format(tmp_path / "users")
    server = serve(Backend(), 0, address)
    with channel(address) as opened:
        UserServiceStub(opened).GetUser(ADA)
    server.stop(0).wait()


def test_what_is_elsewhere_goes_by_the_proxy(proxy: socket.socket) -> None:
    with channel("users.example.com:50051") as opened:
        pending = UserServiceStub(opened).GetUser.future(ADA)
        asked, _ = proxy.accept()
        with asked:
            assert asked.recv(100).startswith(b"CONNECT users.example.com:50051 HTTP/1.1")
        pending.cancel()


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:1", True), ("127.8.9.10:1", True), ("localhost:1", True), ("LocalHost.:1", True),
        ("users.localhost:1", True), ("[::1]:1", True), ("[::ffff:127.0.0.1]:1", True), ("0.0.0.0:1", True),
        ("ipv6:[::1]:1", True), ("ipv4:127.0.0.1:1,127.0.0.1:2", True), ("dns://8.8.8.8/localhost:1", True),
        ("unix:/run/users.sock", True), ("unix-abstract:users", True),
        ("10.0.0.1:1", False), ("[2001:db8::1]:1", False), ("users:1", False), ("notlocalhost:1", False),
        ("localhost.example.com:1", False), ("ipv4:127.0.0.1:1,10.0.0.1:1", False), ("dns:///users:1", False),
        ("xds:///localhost", False), ("vsock:2:1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_on_this_machine(address: str, here: bool) -> None:
    assert is_on_this_machine(address) is here
