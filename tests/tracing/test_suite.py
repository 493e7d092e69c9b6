"""Three servers that export by OTLP: an atomic update is one trace, and what is done for it later is linked to it."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest, UpdateUserAndPreferencesRequest
from handfast.client import ServiceError, Suite
from handfast.preferences.v1.preferences_pb2 import Preferences
from handfast.server.process.settings import METRICS_PORT_OFFSET
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User
from tests.cli.processes import Process, suite_up
from tests.eventually import eventually
from tests.people import new_email, new_id
from tests.project.readme import OBSERVABILITY, quoted, table

from .picture import svg
from .receiver import Receiver, Span, receiving

ACCOUNTS, USERS = "handfast.accounts.v1.AccountService", "handfast.users.v1.UserService"
PREFERENCES = "handfast.preferences.v1.PreferencesService"
PARTICIPANT = "handfast.transactions.v1.ParticipantService"
Metadata = tuple[tuple[str, str | bytes], ...]
PARENT = "b7ad6b7169203331"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}  # milliseconds


@dataclass
class Traced:
    process: Process
    suite: Suite
    receiver: Receiver

    def trace(self, flags: str = "01") -> tuple[str, Metadata]:
        """The id of a new trace, and the metadata by which a call is part of it."""
        trace_id = secrets.token_hex(16)
        return trace_id, (("traceparent", f"00-{trace_id}-{PARENT}-{flags}"),)

    def log_lines(self, trace_id: str, count: int) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            lines = [json.loads(line) for line in self.process.stderr.splitlines()]
            ours = [line for line in lines if line.get("trace_id") == trace_id]
            return ours if len(ours) >= count else []

        return eventually(found) or []


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    with receiving() as receiver:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver.address}", **SOON}
        with (
            suite_up(tmp_path_factory.mktemp("traced"), environment, "--tracing") as process,
            process.connect() as suite,
        ):
            yield Traced(process, suite, receiver)


def new_user() -> User:
    return User(user_id=new_id(), email=new_email())


def tree(spans: list[Span]) -> list[str]:
    """The spans of a trace, each beneath its parent, with who made it and of which kind it is. Those that have the same
    parent are in the order of their names."""
    children: dict[str, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent_id, []).append(span)

    def lines(parent_id: str, depth: int) -> Iterator[str]:
        for span in sorted(children.get(parent_id, []), key=lambda span: (span.kind, span.name)):
            yield f"{'  ' * depth}{span.service}: {span.name} ({span.kind})"
            yield from lines(span.span_id, depth + 1)

    roots = {span.parent_id for span in spans} - {span.span_id for span in spans}
    return [line for root in sorted(roots) for line in lines(root, 0)]


def test_an_atomic_update_is_one_trace_over_all_servers(traced: Traced) -> None:
    trace_id, metadata = traced.trace()
    reply = traced.suite.accounts.CreateAccount(CreateAccountRequest(user=new_user()), metadata=metadata)
    spans = traced.receiver.of_trace(trace_id, 11)
    assert tree(spans) == [
        f"accounts: {ACCOUNTS}/CreateAccount (SERVER)",
        f"  accounts: {PREFERENCES}/UpdatePreferences (CLIENT)",
        f"    preferences: {PREFERENCES}/UpdatePreferences (SERVER)",
        "      preferences: stage (INTERNAL)",
        "        preferences: TRANSACTION preferences.sqlite3 (INTERNAL)",
        f"  accounts: {USERS}/CreateUser (CLIENT)",
        f"    users: {USERS}/CreateUser (SERVER)",
        "      users: stage (INTERNAL)",
        "        users: TRANSACTION users.sqlite3 (INTERNAL)",
        "  accounts: decide (INTERNAL)",
        "    accounts: TRANSACTION transactions.sqlite3 (INTERNAL)",
    ]
    by_name = {(span.service, span.name): span for span in spans}
    call = by_name["accounts", f"{ACCOUNTS}/CreateAccount"]
    assert call.parent_id == PARENT
    assert call.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{ACCOUNTS}/CreateAccount",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": traced.process.first_port + 2,
        "handfast.transaction_id": reply.transaction_id,
    }
    assert by_name["users", "stage"].attributes == {"handfast.transaction_id": reply.transaction_id}
    decided = {"handfast.transaction_id": reply.transaction_id, "handfast.outcome": "committed"}
    assert by_name["accounts", "decide"].attributes == decided
    assert by_name["users", "TRANSACTION users.sqlite3"].attributes == {
        "db.system.name": "sqlite",
        "db.namespace": "users.sqlite3",
        "db.operation.name": "TRANSACTION",
    }
    assert not any(span.is_error for span in spans)
    assert all(call.start_ns <= span.start_ns <= span.end_ns for span in spans)


def test_the_page_shows_the_trace_of_an_update_and_all_attributes(traced: Traced) -> None:
    created, metadata = traced.trace()
    dark = Preferences(values={"theme": Value(string_value="dark")})  # of which the definition is read once
    account = CreateAccountRequest(user=new_user(), preferences=dark)
    user = traced.suite.accounts.CreateAccount(account, metadata=metadata).account.user
    finished = traced.receiver.linked_to(traced.receiver.of_trace(created, 2, "stage"), "finish", 2)
    assert finished  # so that nothing is in the way of the update
    trace_id, metadata = traced.trace()
    dark.user_id = user.user_id
    request = UpdateUserAndPreferencesRequest(user=User(user_id=user.user_id, display_name="Ada"), preferences=dark)
    traced.suite.accounts.UpdateUserAndPreferences(request, metadata=metadata)
    update = traced.receiver.of_trace(trace_id, 11)
    shown = [re.sub(r"handfast\S+/", "", line) for line in tree(update)]
    page = OBSERVABILITY.read_text()
    assert "```text\n" + "\n".join(shown) + "\n```" in page
    documented = {name for names, *_ in table(OBSERVABILITY, "attribute", "of", "says") for name in quoted(names)}
    assert {name for span in traced.receiver.spans for name in span.attributes} <= documented


def test_the_picture_has_a_bar_for_each_span(traced: Traced) -> None:
    trace_id, metadata = traced.trace()
    traced.suite.accounts.CreateAccount(CreateAccountRequest(user=new_user()), metadata=metadata)
    update = traced.receiver.of_trace(trace_id, 11)
    ends = [traced.receiver.of_trace(end.trace_id, 5) for end in traced.receiver.linked_to(update, "notify", 2)]
    picture = ElementTree.fromstring(svg(update, ends))
    namespace = "{http://www.w3.org/2000/svg}"
    bars = [each for each in picture.iter(f"{namespace}rect") if each.get("height") == "14"]
    assert len(bars) == 21
    assert len([*picture.iter(f"{namespace}path")]) == 4  # the links


def test_finishing_is_a_trace_of_its_own_that_is_linked_to_the_update(traced: Traced) -> None:
    trace_id, metadata = traced.trace()
    traced.suite.accounts.CreateAccount(CreateAccountRequest(user=new_user()), metadata=metadata)
    update = traced.receiver.of_trace(trace_id, 11)
    decided = [span for span in update if span.name == "decide"]
    notifications = traced.receiver.linked_to(decided, "notify", 2)
    assert [span.service for span in notifications] == ["accounts", "accounts"]
    finished = set()
    for notification in notifications:
        assert notification.parent_id == ""
        assert notification.trace_id != trace_id
        of_participant = traced.receiver.of_trace(notification.trace_id, 5)
        lines = tree(of_participant)
        name = lines[2].strip().partition(":")[0]
        assert lines == [
            "accounts: notify (INTERNAL)",
            f"  accounts: {PARTICIPANT}/FinishTransactions (CLIENT)",
            f"    {name}: {PARTICIPANT}/FinishTransactions (SERVER)",
            f"      {name}: finish (INTERNAL)",
            f"        {name}: TRANSACTION {name}.sqlite3 (INTERNAL)",
        ]
        finished.add(name)
    assert finished == {"users", "preferences"}
    staged = [span for span in update if span.name == "stage"]
    assert [span.service for span in traced.receiver.linked_to(staged, "finish", 2)] == ["preferences", "users"]


def test_what_is_refused_says_why_and_is_rolled_back_in_the_same_trace(traced: Traced) -> None:
    trace_id, metadata = traced.trace()
    first, second = new_user(), new_user()
    second.email = first.email
    traced.suite.users.CreateUser(CreateUserRequest(user=first))
    with pytest.raises(ServiceError) as refused:
        traced.suite.accounts.CreateAccount(CreateAccountRequest(user=second), metadata=metadata)
    assert refused.value.reason == "EMAIL_TAKEN"
    spans = {(span.service, span.name, span.kind): span for span in traced.receiver.of_trace(trace_id, 11)}
    # To the caller it is an error; to the server, an answer.
    client = spans["accounts", f"{USERS}/CreateUser", "CLIENT"]
    assert client.is_error
    assert client.attributes["error.type"] == client.attributes["rpc.response.status_code"] == "ALREADY_EXISTS"
    server = spans["users", f"{USERS}/CreateUser", "SERVER"]
    assert not server.is_error
    assert "error.type" not in server.attributes
    assert server.attributes["rpc.response.status_code"] == "ALREADY_EXISTS"
    assert server.attributes["handfast.error.reason"] == "EMAIL_TAKEN"
    staging = spans["users", "stage", "INTERNAL"]
    assert (staging.is_error, staging.attributes["handfast.error.reason"]) == (False, "EMAIL_TAKEN")
    assert not spans["users", "TRANSACTION users.sqlite3", "INTERNAL"].is_error  # the database did what it was told
    assert spans["accounts", "decide", "INTERNAL"].attributes["handfast.outcome"] == "aborted"


def test_an_unknown_method_is_an_error_of_the_server_and_has_no_name_that_the_caller_chose(traced: Traced) -> None:
    trace_id, metadata = traced.trace()
    with grpc.insecure_channel(traced.process.addresses["users"]) as channel:
        call: Any = channel.unary_unary("/ada@example.com/Call")
        with pytest.raises(grpc.RpcError):
            call(b"", metadata=metadata)
    (span,) = traced.receiver.of_trace(trace_id, 1)
    assert (span.name, span.attributes["rpc.method"]) == ("grpc", "_OTHER")
    assert (span.is_error, span.attributes["error.type"]) == (True, "UNIMPLEMENTED")


def test_a_read_is_a_span_of_the_call_and_one_of_the_database(traced: Traced) -> None:
    trace_id, metadata = traced.trace()
    with pytest.raises(ServiceError):
        traced.suite.users.GetUser(GetUserRequest(user_id=new_id()), metadata=metadata)
    assert tree(traced.receiver.of_trace(trace_id, 2)) == [
        f"users: {USERS}/GetUser (SERVER)",
        "  users: SELECT users.sqlite3 (INTERNAL)",
    ]


def test_a_trace_that_its_caller_does_not_record_is_not_recorded(traced: Traced) -> None:
    trace_id, not_recorded = traced.trace("00")
    other_id, recorded = traced.trace("01")
    for metadata in (not_recorded, recorded):
        traced.suite.accounts.CreateAccount(CreateAccountRequest(user=new_user()), metadata=metadata)
    assert traced.receiver.of_trace(other_id, 11)
    assert trace_id not in {span.trace_id for span in traced.receiver.spans}
    # It goes on all the same, and logs name it.
    lines = traced.log_lines(trace_id, 3)
    assert {line["service"] for line in lines} == {"accounts", "users", "preferences"}
    assert len({line["span_id"] for line in lines} - {PARENT}) == 3


def test_the_state_of_a_trace_goes_on_to_peers(traced: Traced) -> None:
    trace_id, metadata = traced.trace()
    state = f"vendor={secrets.token_hex(8)}"
    traced.suite.accounts.CreateAccount(
        CreateAccountRequest(user=new_user()), metadata=(*metadata, ("tracestate", state))
    )
    traced.receiver.of_trace(trace_id, 11)
    assert traced.receiver.text.count(f'trace_state: "{state}"') == 11


def test_the_log_has_nothing_of_a_state_that_breaks_the_rules_of_w3c(traced: Traced) -> None:
    for state in ("grace@example.com", "a=grace@example.com," * 40, "a=b,a=grace@example.com"):
        trace_id, metadata = traced.trace()
        with pytest.raises(ServiceError):
            traced.suite.users.GetUser(GetUserRequest(user_id=new_id()), metadata=(*metadata, ("tracestate", state)))
        assert traced.log_lines(trace_id, 1)
    assert "grace@example.com" not in traced.process.stderr
    assert "opentelemetry.trace" not in traced.process.stderr


def test_log_lines_name_the_span_of_their_call(traced: Traced) -> None:
    trace_id, metadata = traced.trace()
    traced.suite.accounts.CreateAccount(CreateAccountRequest(user=new_user()), metadata=metadata)
    calls = {(span.service, span.span_id) for span in traced.receiver.of_trace(trace_id, 11) if span.kind == "SERVER"}
    lines = traced.log_lines(trace_id, 3)
    assert {(line["service"], line["span_id"]) for line in lines} == calls


def test_a_call_without_a_trace_begins_one(traced: Traced) -> None:
    user_id = new_id()
    with pytest.raises(ServiceError) as missing:
        traced.suite.users.GetUser(GetUserRequest(user_id=user_id))

    def logged() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in traced.process.stderr.splitlines()]
        return [line for line in lines if line.get("request_id") == missing.value.request_id]

    (line,) = eventually(logged) or []
    call, _ = traced.receiver.of_trace(line["trace_id"], 2)
    assert (call.span_id, call.parent_id) == (line["span_id"], "")


def test_latency_has_traces_as_exemplars(traced: Traced) -> None:
    trace_id, metadata = traced.trace()
    traced.suite.users.CreateUser(CreateUserRequest(user=new_user()), metadata=metadata)
    (call, *_) = traced.receiver.of_trace(trace_id, 2)
    url = f"http://127.0.0.1:{traced.process.first_port + METRICS_PORT_OFFSET}/metrics"
    asked = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    with urllib.request.urlopen(asked) as reply:
        text = reply.read().decode()
    ours = f'# {{span_id="{call.span_id}",trace_id="{trace_id}"}}'
    assert re.search(rf'^grpc_server_handling_seconds_bucket{{grpc_method="CreateUser".*{re.escape(ours)}', text, re.M)
    with urllib.request.urlopen(url) as reply:
        assert trace_id not in reply.read().decode()  # which the older format cannot say


def test_health_and_reflection_are_not_traced(traced: Traced) -> None:
    trace_id, metadata = traced.trace()
    with grpc.insecure_channel(traced.process.addresses["users"]) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        health.Check(health_pb2.HealthCheckRequest(), metadata=metadata)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        assert [*reflection.ServerReflectionInfo(iter([asked]), metadata=metadata)]
    with pytest.raises(ServiceError):
        traced.suite.users.GetUser(GetUserRequest(user_id=new_id()), metadata=metadata)
    names = [span.name for span in traced.receiver.of_trace(trace_id, 2)]
    assert names == [f"{USERS}/GetUser", "SELECT users.sqlite3"]


def test_spans_have_nothing_of_requests_and_replies(traced: Traced) -> None:
    user, trace_ids = new_user(), []
    user.display_name, value = secrets.token_hex(8), secrets.token_hex(8)

    def call(method: Any, request: Any) -> None:
        trace_id, metadata = traced.trace()
        trace_ids.append(trace_id)
        with contextlib.suppress(ServiceError):
            method(request, metadata=(*metadata, ("x-request-id", f"of-{user.user_id}")))

    suite = traced.suite
    call(suite.accounts.CreateAccount, CreateAccountRequest(user=user))
    call(suite.accounts.CreateAccount, CreateAccountRequest(user=user))
    call(suite.users.UpdateUser, UpdateUserRequest(user=user, update_mask=FieldMask(paths=["display_name", "no"])))
    call(suite.users.GetUser, GetUserRequest(user_id=user.user_id))
    preferences = Preferences(user_id=user.user_id, values={"theme": Value(string_value=value)})
    call(suite.accounts.UpdateUserAndPreferences, UpdateUserAndPreferencesRequest(user=user, preferences=preferences))
    assert all(traced.receiver.of_trace(trace_id, 1) for trace_id in trace_ids)
    for private in (user.user_id, user.email, user.display_name, value):
        assert private not in traced.receiver.text
