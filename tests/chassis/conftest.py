from __future__ import annotations

import io
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

from handfast.server.chassis import call
from handfast.server.chassis.logs import log as logs
from handfast.server.chassis.logs.writer import LogWriter
from handfast.server.chassis.operations.readiness import Check
from handfast.server.chassis.server import Background, Server, Service
from handfast.server.process.settings import ServerSettings
from handfast.users.v1 import users_pb2, users_pb2_grpc
from tests.eventually import eventually

USERS = users_pb2.DESCRIPTOR.services_by_name["UserService"]


class Users(users_pb2_grpc.UserServiceServicer):
    """GetUser does what the test at hand says; UpdateUser, which is stageable, confirms; the rest is left out."""

    def __init__(self) -> None:
        self.behavior: Callable[[users_pb2.GetUserRequest, grpc.ServicerContext], Any] = lambda request, context: None

    def GetUser(self, request: users_pb2.GetUserRequest, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        reply: users_pb2.GetUserResponse = self.behavior(request, context)
        return reply

    def UpdateUser(
        self, request: users_pb2.UpdateUserRequest, context: grpc.ServicerContext
    ) -> users_pb2.UpdateUserResponse:
        return users_pb2.UpdateUserResponse(user=request.user)


class Running:
    """A server on loopback, with all that a test wants to look at."""

    def __init__(self, servicer: Users, server: Server, log: io.BytesIO, writer: LogWriter) -> None:
        self.servicer, self.server = servicer, server
        self.channel: Any = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)
        self.stub = users_pb2_grpc.UserServiceStub(self.channel)
        self._log, self._writer = log, writer

    def get_user(self, behavior: Callable[..., Any], user_id: str = "ada", **options: Any) -> users_pb2.GetUserResponse:
        self.servicer.behavior = behavior
        return self.stub.GetUser(users_pb2.GetUserRequest(user_id=user_id), **options)

    def failure(self, behavior: Callable[..., Any], **options: Any) -> Failure:
        with pytest.raises(grpc.RpcError) as caught:
            self.get_user(behavior, **options)
        return Failure(caught.value)

    def call_log(self, request_id: str) -> dict[str, Any]:
        """The one line about this call; waits for it, as it is written after the reply."""

        def about_the_call() -> list[dict[str, Any]]:
            return [line for line in self.log_lines(request_id) if line["event"] == "call"]

        lines = eventually(about_the_call) or []
        assert len(lines) == 1
        return lines[0]

    def log_lines(self, request_id: str) -> list[dict[str, Any]]:
        self._writer.flush()
        as_logged = json.dumps(request_id).encode()
        named = [line for line in self._log.getvalue().splitlines() if as_logged in line]
        return [line for line in map(json.loads, named) if line.get("request_id") == request_id]

    def metric(self, sample: str) -> float:
        """The value of one sample, given as it stands in the text."""
        with urllib.request.urlopen(self.server.metrics_url, timeout=5) as response:
            text = response.read().decode()
        return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(sample + " ")), -1)


CHECKING_HEALTH = (
    (
        "grpc.service_config",
        json.dumps(
            {
                "loadBalancingConfig": [{"round_robin": {}}],
                "healthCheckConfig": {"serviceName": "handfast.users.v1.UserService"},
            }
        ),
    ),
)
"""Options of a client that asks no server whose health is not SERVING (proposal A17 of gRPC): it watches each."""
StartServer = Callable[..., Running]


class Failure:
    """An error as its caller sees it, with its details unpacked."""

    def __init__(self, error: Any) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details()
        status: status_pb2.Status | None = rpc_status.from_call(error)
        self.status = status or status_pb2.Status()
        self.trailers: dict[str, str | bytes] = dict(error.trailing_metadata() or ())
        self.request_id = str(self.trailers.get("x-request-id", ""))
        self.everything = repr((error, self.status, error.initial_metadata(), error.trailing_metadata()))

    def details_of(self, kind: type[Message]) -> list[Any]:
        found = []
        for packed in self.status.details:
            detail = kind()
            if packed.Unpack(detail):
                found.append(detail)
        return found

    @property
    def info(self) -> Any:
        (info,) = self.details_of(error_details_pb2.ErrorInfo)
        return info

    @property
    def named_request_id(self) -> str:
        (info,) = self.details_of(error_details_pb2.RequestInfo)
        request_id: str = info.request_id
        return request_id


def new_users() -> Users:
    return Users()  # type: ignore[abstract]  # what is left out, the generated class refuses


def new_server(
    servicer: Users,
    *,
    listen: str = "127.0.0.1:0",
    metrics_listen: str = "127.0.0.1:0",
    checks: Sequence[Check] = (),
    background: Sequence[Background] = (),
    on_close: Sequence[Callable[[], None]] = (),
    interceptors: Sequence[grpc.ServerInterceptor] = (),
    grace: float = 0.3,
    **settings: Any,
) -> Server:
    """A server that has yet to start; any free ports."""
    return Server(
        ServerSettings(name="users", listen=listen, metrics_listen=metrics_listen, grace=grace, **settings),
        domain="handfast.users",
        services=[Service(USERS, users_pb2_grpc.add_UserServiceServicer_to_server, servicer, "handfast.users")],
        checks=checks,
        background=background,
        on_close=on_close,
        interceptors=interceptors,
    )


@pytest.fixture(scope="package")
def log() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture(scope="package")
def writer(log: io.BytesIO) -> LogWriter:
    return logs.configure("users", "info", log)


@pytest.fixture(scope="package")
def running(log: io.BytesIO, writer: LogWriter) -> Iterator[Running]:
    servicer = new_users()
    server = new_server(servicer)
    server.start()
    running = Running(servicer, server, log, writer)
    yield running
    running.channel.close()
    server.stop()


@pytest.fixture
def start(log: io.BytesIO, writer: LogWriter) -> Iterator[StartServer]:
    """Starts a server with what `new_server` takes; it is stopped at the end."""
    started: list[Running] = []

    def start(**settings: Any) -> Running:
        servicer = new_users()
        server = new_server(servicer, **settings)
        server.start()
        started.append(Running(servicer, server, log, writer))
        return started[-1]

    yield start
    for running in started:
        running.channel.close()
        running.server.stop()


@pytest.fixture
def tolerant(monkeypatch: pytest.MonkeyPatch) -> None:
    """For short deadlines: a call that took its time to a busy server counts as late there, not as cancelled."""
    monkeypatch.setattr(call, "tolerance_of", lambda _timeout: 2.0)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds a handler until the test lets it go, or ends."""
    gate = threading.Event()
    yield gate
    gate.set()
