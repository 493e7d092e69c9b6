"""`handfast health`: whether a server serves, as probes ask it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from tests.cli.processes import Process, Result

Handfast = Callable[..., Result]


@pytest.fixture
def unready() -> Iterator[str]:
    """The address of a server that answers, and says that it does not serve."""
    server = grpc.server(ThreadPoolExecutor(1))
    health = HealthServicer()
    health.set("", HealthCheckResponse.NOT_SERVING)
    health.set("liveness", HealthCheckResponse.SERVING)
    add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(None).wait()


def test_a_server_that_serves_is_healthy_as_a_whole_and_by_each_service(handfast: Handfast, suite: Process) -> None:
    for address in suite.addresses.values():
        assert handfast("health", address) == Result(0, "SERVING\n", "")
    for service in ("handfast.users.v1.UserService", "liveness", "readiness"):
        assert handfast("health", suite.addresses["users"], "--service", service) == Result(0, "SERVING\n", "")


def test_one_that_does_not_serve_is_unhealthy_and_alive(handfast: Handfast, unready: str) -> None:
    assert handfast("health", unready) == Result(1, "NOT_SERVING\n", "")
    assert handfast("health", unready, "--service", "liveness") == Result(0, "SERVING\n", "")


def test_what_does_not_answer_is_unhealthy_and_told_in_one_line(handfast: Handfast, suite: Process) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = handfast("health", address, "--timeout", "0.2")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith(f"handfast: health: {address}: DEADLINE_EXCEEDED: ")

    users = suite.addresses["users"]
    result = handfast("health", users, "--service", "handfast.users.v1.Users")
    there_is_none = "NOT_FOUND: This server has no service handfast.users.v1.Users."
    assert result == Result(1, "", f"handfast: health: {users}: {there_is_none}\n")


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("users",), "ADDRESS: 'users' is no address; give a host and a port, such as localhost:50051"),
        (("users-a:50051,users-b:50051",), "is a list, and one server is asked at a time"),
        (("localhost:50051", "--timeout", "0"), "'--timeout': 0.0 is not in the range 0<x<=3600"),
        (("localhost:50051", "--timeout", "1e400"), "'--timeout': inf is not in the range 0<x<=3600"),
        (("localhost:50051", "--timeout", "nan"), "'--timeout': nan is not in the range 0<x<=3600"),
        ((), "Missing argument 'ADDRESS'"),
    ],
)
def test_a_mistake_is_named_and_is_no_word_about_a_server(
    handfast: Handfast, arguments: tuple[str, ...], rule: str
) -> None:
    result = handfast("health", *arguments)
    assert (result.status, result.stdout) == (2, "")
    assert rule in result.stderr


def test_certificates_come_from_the_environment_as_for_every_client(handfast: Handfast) -> None:
    result = handfast("health", "localhost:50051", HANDFAST_CA="/nope")
    said = "handfast: health: HANDFAST_CA: cannot read /nope: No such file or directory\n"
    assert (result.status, result.stderr) == (2, said)
    result = handfast("health", "localhost:50051", HANDFAST_CERTIFICATE="client.pem")
    assert (result.status, result.stderr) == (
        2,
        "handfast: health: HANDFAST_KEY: is needed, too: a certificate is used with its key\n",
    )
