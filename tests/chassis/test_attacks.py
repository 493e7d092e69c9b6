"""Whoever means a server ill does not keep it from serving others."""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from structlog.testing import capture_logs

from handfast.server.chassis import cancellation, connections
from handfast.server.process import open_files
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse, User
from tests import http2
from tests.chassis.conftest import Failure, Running, StartServer
from tests.eventually import PATIENCE, eventually
from tests.security.authority import Authority
from tests.security.issuer import Issuer, bearer

GET_USER = b"/handfast.users.v1.UserService/GetUser"
CHECK = b"/grpc.health.v1.Health/Check"
CONNECTIONS = 2_000
BEGINNING_OF_TLS = b"\x16\x03\x01\x02\x00"
"""The head of a record that never comes."""
STREAMS = 100
"""More than a server has threads and places, and fewer than it allows on one connection."""


@pytest.fixture
def attacked(start: StartServer) -> Running:
    return start(threads=2, queue=4)


def assert_serves(attacked: Running, **options: Any) -> None:
    """A caller who means it well is answered, each time."""
    for _ in range(10):
        attacked.get_user(lambda request, context: GetUserResponse(user=User(user_id=request.user_id)), **options)
    assert (
        attacked.health.Check(HealthCheckRequest(service="liveness"), timeout=PATIENCE).status
        == HealthCheckResponse.SERVING
    )


@contextlib.contextmanager
def calls_without_request(address: str, path: bytes, headers: list[tuple[bytes, bytes]]) -> Iterator[None]:
    """So many that begin, and then send nothing, on one connection."""
    block = http2.header_block(address, path, headers)
    with http2.connect(address) as connection:
        connection.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, b""))
        for number in range(STREAMS):
            connection.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS, 2 * number + 1, block))
        yield


@pytest.mark.parametrize(("path", "pool"), [(GET_USER, "calls"), (CHECK, "health")])
def test_others_are_served_beside_calls_whose_requests_never_come(
    attacked: Running, path: bytes, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "PATIENCE_WITH_MANY", PATIENCE)
    assert_serves(attacked)
    with calls_without_request(attacked.server.address, path, []):
        assert eventually(lambda: attacked.metric(f'handfast_calls_awaited{{pool="{pool}"}}') == STREAMS)
        assert_serves(attacked)
    assert eventually(lambda: attacked.metric(f'handfast_calls_awaited{{pool="{pool}"}}') == 0)
    assert attacked.metric(f'handfast_calls_shed_total{{pool="{pool}"}}') == 0


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def guarded(start: StartServer, issuer: Issuer, tmp_path: Path) -> Running:
    """A server that lets in who has a token."""
    return start(threads=2, queue=4, **issuer.settings(tmp_path))


def test_who_may_not_call_is_refused_before_the_request_comes(guarded: Running, issuer: Issuer) -> None:
    end = threading.Event()

    def nothing() -> Iterator[bytes]:
        end.wait(2 * PATIENCE)
        yield from ()

    call = guarded.channel.stream_stream(GET_USER.decode())
    codes = {}
    for who, metadata in {
        "a stranger": (),
        "who has another scope": bearer(issuer.token("ada", ["users.write"])),
        "who sends much metadata": (("huge", 20 * 1024 * "x"),),
    }.items():
        with pytest.raises(grpc.RpcError) as caught:
            next(call(nothing(), metadata=metadata, timeout=2 * PATIENCE))
        codes[who] = Failure(caught.value).code.name
    end.set()
    assert codes == {
        "a stranger": "UNAUTHENTICATED",
        "who has another scope": "PERMISSION_DENIED",
        "who sends much metadata": "INVALID_ARGUMENT",
    }
    assert guarded.metric('handfast_calls_awaited{pool="calls"}') == 0


def test_a_call_may_send_64_kib_before_it_is_read_however_much_strangers_send(guarded: Running) -> None:
    address = guarded.server.address
    most = 2**16 - 1  # the window that each call has in the beginning
    windows, connection_window = [most], most
    part = 3 * [bytes(2**14)]  # of a request of 7 MiB
    part[0] = b"\0" + (7 * 2**20).to_bytes(4, "big") + part[0][http2.MESSAGE_HEAD :]
    block = http2.header_block(address, GET_USER, [])
    with http2.connect(address) as connection, connection.makefile("rb") as frames:
        connection.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, b""))
        for stream in range(1, 4 * STREAMS, 2):
            data = b"".join(http2.frame(http2.DATA, 0, stream, each) for each in part)
            connection.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS, stream, block) + data)
            connection_window -= sum(map(len, part))
            while connection_window < sum(map(len, part)):
                head = frames.read(http2.FRAME_HEAD)
                payload = frames.read(int.from_bytes(head[:3], "big"))
                kind, flags, of_stream = head[3], head[4], int.from_bytes(head[5:], "big")
                if kind == http2.WINDOW_UPDATE and of_stream == 0:
                    connection_window += int.from_bytes(payload, "big")
                elif kind in (http2.PING, http2.SETTINGS) and not flags & http2.ACK:
                    answer = payload if kind == http2.PING else b""
                    connection.sendall(http2.frame(kind, http2.ACK, 0, answer))
                    if kind == http2.SETTINGS:
                        windows += _initial_windows(payload)
    assert max(windows) == most


def _initial_windows(payload: bytes) -> list[int]:
    settings = [payload[start : start + 6] for start in range(0, len(payload), 6)]
    name = http2.INITIAL_WINDOW_SIZE.to_bytes(2, "big")
    return [int.from_bytes(each[2:], "big") for each in settings if each.startswith(name)]


def test_calls_of_strangers_take_no_place_of_others(guarded: Running, issuer: Issuer) -> None:
    strangers = [guarded.stub.GetUser.future(GetUserRequest()) for _ in range(STREAMS)]
    assert_serves(guarded, metadata=bearer(issuer.token("ada", ["users.read"])))
    errors: list[Any] = [call.exception(PATIENCE) for call in strangers]
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAUTHENTICATED}
    assert guarded.metric('handfast_calls_shed_total{pool="calls"}') == 0


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


@pytest.mark.parametrize("tls", [False, True], ids=["plain text", "TLS"])
def test_who_does_not_finish_a_handshake_is_let_go_and_others_are_served_meanwhile(
    start: StartServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tls: bool
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_TIMEOUT", 1.0)
    authority = Authority(tmp_path)
    files, client = authority.server(), authority.client()
    secure = {
        "tls_certificate": str(files.certificate),
        "tls_key": str(files.key),
        "tls_client_ca": str(authority.file),
    }
    attacked = start(**secure if tls else {})
    beginnings = (b"", BEGINNING_OF_TLS if tls else http2.PREFACE)
    with contextlib.ExitStack() as stack:
        pending = [stack.enter_context(http2.connect(attacked.server.address)) for _ in range(200)]
        for number, connection in enumerate(pending):
            connection.sendall(beginnings[number % 2])
        channel = attacked.channel
        if tls:
            pair = (client.key.read_bytes(), client.certificate.read_bytes())
            credentials = grpc.ssl_channel_credentials(authority.pem, *pair)
            channel = stack.enter_context(grpc.secure_channel(attacked.server.address, credentials))
        health: Any = health_pb2_grpc.HealthStub(channel)
        # On a machine that pauses, its own handshake may take too long, and it tries again.
        health.Check(HealthCheckRequest(), timeout=PATIENCE, wait_for_ready=True)
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
