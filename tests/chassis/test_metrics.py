from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from socketserver import BaseServer
from typing import Any, NoReturn

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from handfast.server.chassis.operations.endpoint import Endpoint
from handfast.users.v1 import users_pb2
from tests.eventually import PATIENCE

from .conftest import Running
from .test_errors_on_the_wire import UserNotFound, raising

GET_USER = 'grpc_method="GetUser",grpc_service="handfast.users.v1.UserService",grpc_type="unary"'


def samples(running: Running, code: str) -> dict[str, float]:
    return {
        name: running.metric(f"{name}{{{labels}}}")
        for name, labels in (
            ("grpc_server_started_total", GET_USER),
            ("grpc_server_handled_total", f'grpc_code="{code}",{GET_USER}'),
            ("grpc_server_handling_seconds_count", GET_USER),
            ("grpc_server_msg_received_total", GET_USER),
            ("grpc_server_msg_sent_total", GET_USER),
        )
    }


def increase(running: Running, code: str, call: Any) -> dict[str, float]:
    before = samples(running, code)
    running.call_log(call())
    after = samples(running, code)
    return {name.removeprefix("grpc_server_"): after[name] - before[name] for name in after}


def test_a_call_is_counted_once_under_the_names_of_go_grpc_middleware(running: Running) -> None:
    def call() -> str:
        found = users_pb2.GetUserResponse()
        running.get_user(lambda _request, _context: found, metadata=(("x-request-id", "counted"),))
        return "counted"

    assert increase(running, "OK", call) == {
        "started_total": 1,
        "handled_total": 1,
        "handling_seconds_count": 1,
        "msg_received_total": 1,
        "msg_sent_total": 1,
    }


def test_a_failed_call_is_counted_with_the_code_that_its_caller_saw(running: Running) -> None:
    def call() -> str:
        request_id: str = running.failure(raising(UserNotFound("m"))).request_id
        return request_id

    assert increase(running, "NotFound", call) == {
        "started_total": 1,
        "handled_total": 1,
        "handling_seconds_count": 1,
        "msg_received_total": 1,
        "msg_sent_total": 0,
    }


def test_methods_that_nobody_called_are_there_at_zero(running: Running) -> None:
    labels = 'grpc_method="DeleteUser",grpc_service="handfast.users.v1.UserService",grpc_type="unary"'
    assert running.metric(f"grpc_server_started_total{{{labels}}}") == 0
    assert running.metric(f'grpc_server_handled_total{{grpc_code="DeadlineExceeded",{labels}}}') == 0


@pytest.mark.parametrize("name", ["grpc_server_started_total", "handfast_calls_in_flight", "python_info"])
def test_a_metric_can_be_asked_for_by_its_name(running: Running, name: str) -> None:
    with urllib.request.urlopen(f"{running.server.metrics_url}?name[]={name}", timeout=5) as response:
        lines = response.read().decode().splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert samples
    assert all(sample.startswith(name) for sample in samples)


def test_the_process_is_measured_too(running: Running) -> None:
    assert running.metric("process_resident_memory_bytes") > 0


def test_the_time_of_a_call_is_counted_in_seconds(running: Running) -> None:
    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        time.sleep(0.02)
        return users_pb2.GetUserResponse()

    sample = f"grpc_server_handling_seconds_sum{{{GET_USER}}}"
    before, began = running.metric(sample), time.perf_counter()
    running.get_user(behavior, metadata=(("x-request-id", "measured"),))
    running.call_log("measured")
    assert 0.02 <= running.metric(sample) - before <= time.perf_counter() - began
    buckets = [f'grpc_server_handling_seconds_bucket{{{GET_USER},le="{le}"}}' for le in ("0.01", "+Inf")]
    assert 0 <= running.metric(buckets[0]) < running.metric(buckets[1])


@pytest.mark.parametrize("path", ["/", "/metrics/", "/health"])
def test_nothing_but_metrics_and_probes_is_served_beside_the_calls(running: Running, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(running.server.metrics_url.removesuffix("/metrics") + path, timeout=5)
    assert caught.value.code == 404
    assert b"There are only /metrics, /livez and /readyz." in caught.value.read()


def test_all_addresses_are_those_of_ipv6_too_as_they_are_for_calls() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("the system has no IPv6")
    endpoint = Endpoint("0.0.0.0", 0, CollectorRegistry(), is_ready=lambda: True, tls=None)
    try:
        for host in ("127.0.0.1", "[::1]"):
            with urllib.request.urlopen(f"http://{host}:{endpoint.port}/livez", timeout=PATIENCE) as reply:
                assert reply.status == 200
    finally:
        endpoint.close()


class Broken:
    def collect(self) -> NoReturn:
        raise RuntimeError("nothing to be had")


def test_metrics_that_cannot_be_collected_are_an_error_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    registry = CollectorRegistry()
    registry.register(Broken())
    endpoint = Endpoint("127.0.0.1", 0, registry, is_ready=lambda: True, tls=None)
    try:
        with capture_logs() as logs, pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics", timeout=PATIENCE)
    finally:
        endpoint.close()
    assert [(line["log_level"], line["exc_info"]) for line in logs] == [("error", True)]
    assert "Traceback" not in capfd.readouterr().err


def test_the_endpoint_closes_without_waiting_until_it_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseServer.serve_forever, "__defaults__", (3600.0,))  # seconds; the default is half of one
    endpoint = Endpoint("127.0.0.1", 0, CollectorRegistry(), is_ready=lambda: True, tls=None)
    closing = threading.Thread(target=endpoint.close, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()
