"""Whoever means a server ill does not keep it from serving others."""

from __future__ import annotations

import contextlib
import resource

import pytest
from grpc_health.v1 import health_pb2
from structlog.testing import capture_logs

from handfast.server.chassis import connections
from handfast.server.process import open_files
from handfast.users.v1.users_pb2 import GetUserResponse, User
from tests import http2
from tests.chassis.conftest import Running, StartServer
from tests.eventually import PATIENCE, eventually

GET_USER = b"/handfast.users.v1.UserService/GetUser"
CONNECTIONS = 2_000


@pytest.fixture
def attacked(start: StartServer) -> Running:
    return start(threads=2, queue=4)


def assert_serves(attacked: Running) -> None:
    """A caller who means it well is answered, each time."""
    for _ in range(10):
        attacked.get_user(lambda request, context: GetUserResponse(user=User(user_id=request.user_id)))


def test_others_are_served_beside_thousands_of_connections_that_say_nothing(attacked: Running) -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files < 3 * CONNECTIONS:  # both ends are in this process
        pytest.skip(f"a process may open {files} files here")
    with contextlib.ExitStack() as stack:
        for number in range(CONNECTIONS):
            connection = stack.enter_context(http2.connect(attacked.server.address))
            if number % 2:
                connection.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, b""))
        assert_serves(attacked)
    assert_serves(attacked)


def test_who_does_not_finish_a_handshake_is_let_go_and_others_are_served_meanwhile(
    start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_TIMEOUT", 1.0)
    attacked = start()
    with contextlib.ExitStack() as stack:
        pending = [stack.enter_context(http2.connect(attacked.server.address)) for _ in range(200)]
        for connection in pending[::2]:
            connection.sendall(http2.PREFACE)
        # On a machine that pauses, its own handshake may take too long, and it tries again.
        attacked.health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE, wait_for_ready=True)
        for connection in pending:
            with contextlib.suppress(ConnectionError):
                while connection.recv(1024):  # what the server says first; it times out where the server does not end
                    pass


def test_connections_beyond_the_bound_are_closed_and_those_before_are_served(start: StartServer) -> None:
    attacked = start(max_connections=10)
    assert_serves(attacked)
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(http2.connect(attacked.server.address)) for _ in range(20)]
        for stranger in strangers[9:]:
            with contextlib.suppress(ConnectionError):
                assert stranger.recv(1) == b""
        assert_serves(attacked)

    def is_let_in() -> bool:
        with http2.connect(attacked.server.address) as later, contextlib.suppress(ConnectionError):
            later.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, b""))
            return later.recv(1) != b""
        return False

    assert eventually(is_let_in), "there is room again"


def test_connections_leave_files_for_all_else(start: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "limit", lambda: 1_000)
    with capture_logs() as logs:
        settings = start(threads=10, max_connections=900).server.settings
    assert connections.max_connections(settings) == 1_000 - 256 - 4 * 10
    (line,) = (line for line in logs if "too few files" in line["event"])
    assert (line["files"], line["connections"]) == (1_000, 704)


def test_others_are_served_beside_a_flood_of_pings(attacked: Running) -> None:
    ping = http2.frame(http2.PING, 0, 0, bytes(8))
    with http2.connect(attacked.server.address) as connection:
        connection.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, b""))
        with contextlib.suppress(ConnectionError):  # the server turns this one away
            for _ in range(100):
                connection.sendall(1_000 * ping)
        assert_serves(attacked)
    assert_serves(attacked)


def test_others_are_served_beside_callers_that_take_no_reply(attacked: Running) -> None:
    assert_serves(attacked)  # from now on there is a reply to take
    with contextlib.ExitStack() as stack:
        for _ in range(20):  # more than there are threads
            stack.enter_context(http2.unread(attacked.server.address, GET_USER, b"", []))
        assert_serves(attacked)


@pytest.mark.parametrize("size", [20 * 1024, 1024 * 1024])
def test_others_are_served_beside_calls_of_huge_metadata(attacked: Running, size: int) -> None:
    for _ in range(20):
        http2.send(attacked.server.address, GET_USER, b"", [(b"huge", b"x" * size)])
    assert_serves(attacked)
