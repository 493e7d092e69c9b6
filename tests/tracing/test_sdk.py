"""The SDK is set up by the standard variables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags

from handfast.client import connect
from handfast.server.chassis.start_errors import StartError
from handfast.server.chassis.tracing.sdk import exporting
from handfast.server.cli.ports import free_first_port
from handfast.server.process.settings import sqlite_url
from handfast.users.v1.users_pb2 import CreateUserRequest, User
from tests.cli.processes import run_process, start_process, stop_process
from tests.people import new_email

from .receiver import receiving

SAMPLED, NOT_SAMPLED = (
    SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(flag)) for flag in (TraceFlags.SAMPLED, 0)
)


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets it up by variables, and returns the provider."""
    providers: list[TracerProvider] = []
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)

    def set_up(**variables: str) -> TracerProvider:
        for name, value in {"OTEL_TRACES_EXPORTER": "none", **variables}.items():
            monkeypatch.setenv(name, value)
        with exporting("users"):
            return providers.pop()

    return set_up


def service_of(provider: TracerProvider) -> Any:
    return provider.resource.attributes["service.name"]


def test_spans_are_those_of_the_server_unless_the_environment_names_another_service(set_up: Any) -> None:
    assert service_of(set_up()) == "users"
    assert service_of(set_up(OTEL_RESOURCE_ATTRIBUTES="service.name=people,service.namespace=shop")) == "people"
    provider = set_up(OTEL_SERVICE_NAME="persons")
    assert service_of(provider) == "persons"
    assert provider.resource.attributes["service.namespace"] == "shop"


def is_recorded(provider: TracerProvider, parent: SpanContext | None = None, linked: SpanContext | None = None) -> bool:
    context = None if parent is None else trace.set_span_in_context(NonRecordingSpan(parent))
    links = [] if linked is None else [Link(linked)]
    return isinstance(provider.get_tracer("tests").start_span("call", context, links=links), ReadableSpan)


def test_all_is_recorded_unless_its_caller_says_otherwise(set_up: Any) -> None:
    provider = set_up()
    assert is_recorded(provider)
    assert is_recorded(provider, SAMPLED)
    assert not is_recorded(provider, NOT_SAMPLED)


def test_of_traces_that_begin_here_a_share_is_recorded_and_what_is_linked_to_one_that_is(set_up: Any) -> None:
    provider = set_up(OTEL_TRACES_SAMPLER_ARG="0")
    assert not is_recorded(provider)
    assert is_recorded(provider, SAMPLED)
    assert is_recorded(provider, linked=SAMPLED)
    assert not is_recorded(provider, linked=NOT_SAMPLED)
    assert not is_recorded(provider, NOT_SAMPLED, linked=SAMPLED)


def test_another_sampler_is_taken_as_it_is(set_up: Any) -> None:
    assert is_recorded(set_up(OTEL_TRACES_SAMPLER="always_on"), NOT_SAMPLED)
    assert not is_recorded(set_up(OTEL_TRACES_SAMPLER="always_off"), SAMPLED)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1, not '2'"),
        ({"OTEL_TRACES_SAMPLER_ARG": "1%"}, "OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1, not '1%'"),
        (
            {"OTEL_TRACES_EXPORTER": "console,zipkin"},
            "OTEL_TRACES_EXPORTER asks for the exporter 'zipkin', which is not installed",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "OTEL_EXPORTER_OTLP_PROTOCOL asks for the exporter 'otlp_proto_http', which is not installed",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "nonsense"},
            "OTEL_TRACES_SAMPLER must be one of always_on, always_off, traceidratio, parentbased_always_on, "
            "parentbased_always_off, parentbased_traceidratio, not 'nonsense'",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_COMPRESSION": "zip"},
            'Invalid value "zip" for compression envvar OTEL_EXPORTER_OTLP_COMPRESSION',
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "abc"},
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT must be a number of seconds from 0.001 to 1000000, not 'abc'",
        ),
        (
            {"OTEL_BSP_SCHEDULE_DELAY": "5s"},
            "OTEL_BSP_SCHEDULE_DELAY must be a whole number from 1 to 999999999, not '5s'",
        ),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "99999999999999999999"},
            "OTEL_BSP_MAX_QUEUE_SIZE must be a whole number from 1 to 999999999, not '99999999999999999999'",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TIMEOUT": "inf"},
            "OTEL_EXPORTER_OTLP_TIMEOUT must be a number of seconds from 0.001 to 1000000, not 'inf'",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "GRPC"},
            "OTEL_EXPORTER_OTLP_PROTOCOL must be grpc or http/protobuf, not 'GRPC'",
        ),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "10"},
            "OTEL_BSP_MAX_QUEUE_SIZE must be at least OTEL_BSP_MAX_EXPORT_BATCH_SIZE, which is 512, not 10",
        ),
        (
            {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nonexistent"},
            "OTEL_EXPORTER_OTLP_CERTIFICATE must be a file in PEM that can be read, not '/nonexistent'",
        ),
        (
            {"OTEL_EXPORTER_OTLP_CERTIFICATE": __file__},
            f"OTEL_EXPORTER_OTLP_CERTIFICATE must be a file in PEM that can be read, not {__file__!r}",
        ),
        *(
            (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
                "OTEL_EXPORTER_OTLP_ENDPOINT must be a URL such as https://collector:4317, without user, password or "
                "query: for secrets there is OTEL_EXPORTER_OTLP_HEADERS",
            )
            for endpoint in (
                "http://user:hunter2@collector:4317",
                "https://collector:hunter2",
                "collector:hunter2",
                "http://collector:4317?token=hunter2",
            )
        ),
        *(
            (
                {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_HEADERS": headers},
                "OTEL_EXPORTER_OTLP_HEADERS must be NAME=VALUE, or several of these with commas between them, what is "
                "special in a value percent-encoded, and no quotes around",
            )
            for headers in (
                *("Bearer hunter2", '"x-team=hunter2"', "'x-team=hunter2'", "api key=hunter2", "=hunter2"),
                *("x=hunter2;y=hunter3", "x=hünter2", "x=h%C3%BCnter2", "x=hunter2%0A", "x=1,hunter2"),
            )
        ),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.namespace=shop,hunter2"},
            "OTEL_RESOURCE_ATTRIBUTES must be NAME=VALUE, or several of these with commas between them",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(set_up: Any, variables: dict[str, str], message: str) -> None:
    with pytest.raises(StartError) as refused:
        set_up(**variables)
    assert str(refused.value) == f"cannot trace: {message}"


@pytest.mark.parametrize("headers", ["authorization=Bearer hunter2", "Authorization=Basic%20aHUy==, x-team=1,", "x="])
def test_headers_for_a_collector_are_taken_as_the_sdk_does(
    set_up: Any, caplog: pytest.LogCaptureFixture, headers: str
) -> None:
    set_up(OTEL_TRACES_EXPORTER="otlp", OTEL_EXPORTER_OTLP_HEADERS=headers)
    assert not caplog.records


@pytest.mark.parametrize("endpoint", ["collector:4317", "https://[::1]:4317", "http://collector:4317/", "unix:/run/c"])
def test_the_endpoint_may_be_what_grpc_takes(set_up: Any, endpoint: str) -> None:
    set_up(OTEL_TRACES_EXPORTER="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)


def test_an_empty_variable_is_none(set_up: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_BSP_SCHEDULE_DELAY")
    of_otlp = ("ENDPOINT", "PROTOCOL", "COMPRESSION", "TIMEOUT", "HEADERS", "CERTIFICATE")
    for name in (*empty, *(f"OTEL_EXPORTER_OTLP_{each}" for each in of_otlp)):
        monkeypatch.setenv(name, "")
    provider = set_up(OTEL_TRACES_EXPORTER="", OTEL_TRACES_SAMPLER_ARG="0")
    assert service_of(provider) == "users"
    assert not is_recorded(provider)
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ


def test_each_process_is_an_instance_of_its_own(set_up: Any) -> None:
    assert set_up().resource.attributes["service.instance.id"]
    provider = set_up(OTEL_RESOURCE_ATTRIBUTES="service.instance.id=users-0")
    assert provider.resource.attributes["service.instance.id"] == "users-0"


def test_a_server_says_what_cannot_be_before_it_touches_its_database(tmp_path: Path) -> None:
    file = tmp_path / "users.sqlite3"
    arguments = ("serve", "users", "--migrate", "--tracing", "--database-url", sqlite_url(file))
    result = run_process(arguments, {"OTEL_TRACES_SAMPLER_ARG": "1%"})
    line = "handfast: users: cannot trace: OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1, not '1%'"
    assert (result.status, result.told) == (2, [line])
    assert not file.exists()


def test_settings_are_not_called_good_where_a_server_could_not_trace(tmp_path: Path) -> None:
    environment = {"HANDFAST_USERS_DATABASE_URL": sqlite_url(tmp_path / "users.sqlite3"), "HANDFAST_TRACING": "true"}
    # OpenTelemetry reads the last one as it is imported.
    assert run_process(("config", "users"), environment | {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ""}).status == 0
    for variable in ("OTEL_TRACES_SAMPLER_ARG", "OTEL_TRACES_EXPORTER", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"):
        result = run_process(("config", "users"), environment | {variable: "nonsense"})
        assert result.status == 2
        (line,) = result.told
        assert f"users: cannot trace: {variable}" in line


def test_a_server_whose_sdk_is_disabled_is_as_one_without_tracing(tmp_path: Path) -> None:
    first_port = free_first_port()
    arguments = (
        *("serve", "users", "--migrate", "--tracing", "--listen", f"127.0.0.1:{first_port}"),
        *("--database-url", sqlite_url(tmp_path / "users.sqlite3")),
    )
    environment = {"OTEL_SDK_DISABLED": "True", "OTEL_TRACES_SAMPLER_ARG": "1%"}  # which is not read
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    process = start_process(tmp_path / "stderr", arguments, environment, first_port)
    try:
        with connect(f"127.0.0.1:{first_port}") as suite:
            for metadata in ((), (("traceparent", traceparent),)):
                request = CreateUserRequest(user=User(email=new_email()))
                suite.users.CreateUser.with_call(request, timeout=30, metadata=metadata, wait_for_ready=True)
    finally:
        stop_process(process)
    lines = map(json.loads, (tmp_path / "stderr").read_text().splitlines())
    calls = [line for line in lines if line.get("grpc.method") == "CreateUser"]
    assert [line.get("trace_id") for line in calls] == [None, traceparent.split("-")[1]]
    assert not any("span_id" in line for line in calls)


def test_the_provider_of_a_program_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", TracerProvider)
    monkeypatch.setattr(trace, "set_tracer_provider", lambda provider: pytest.fail("it has one"))
    with exporting("users"):
        pass


def test_the_last_spans_are_exported_when_a_server_stops(tmp_path: Path) -> None:
    first_port = free_first_port()
    with receiving() as receiver:
        arguments = (
            *("serve", "users", "--migrate", "--tracing", "--listen", f"127.0.0.1:{first_port}"),
            *("--database-url", sqlite_url(tmp_path / "users.sqlite3")),
        )
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver.address}", "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        process = start_process(tmp_path / "stderr", arguments, environment, first_port)
        try:
            with connect(f"127.0.0.1:{first_port}") as suite:
                request = CreateUserRequest(user=User(email=new_email()))
                suite.users.CreateUser.with_call(request, timeout=30, wait_for_ready=True)
            assert not receiver.spans
        finally:
            stop_process(process)
        assert len(receiver.spans) == 2
