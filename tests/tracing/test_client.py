"""Calls of the client and its transactions as spans of the application's own tracer provider."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from handfast.client import Aborted, NotFound, ServiceError, Suite, aio, channel, connect
from handfast.client.begun_call import begin
from handfast.client.propagation import Propagated, propagating
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.client.backend import Backend
from tests.client.conftest import backend
from tests.client.test_streams import COUNT, hold_streams
from tests.eventually import eventually
from tests.people import create_user, new_email

from .conftest import Recorded

__all__ = ["backend"]

ADA = GetUserRequest(user_id="ada")
GET_USER = "handfast.users.v1.UserService/GetUser"
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


def span_id(span: ReadableSpan) -> str:
    return "" if span.context is None else format_span_id(span.context.span_id)


def parent_of(span: ReadableSpan) -> str:
    return "" if span.parent is None else format_span_id(span.parent.span_id)


def _blocking(stub: Any, **options: Any) -> Any:
    return stub.GetUser(ADA, **options)


def _with_call(stub: Any, **options: Any) -> Any:
    return stub.GetUser.with_call(ADA, **options)


def _future(stub: Any, **options: Any) -> Any:
    return stub.GetUser.future(ADA, **options).result()


def _begun(stub: Any, **options: Any) -> Any:
    return begin(stub.GetUser, ADA, **options).result()


def _on_a_channel(way: Callable[..., Any]) -> Callable[..., Any]:
    def call(address: str, **options: Any) -> Any:
        with channel(address, tracing=True) as opened:
            return way(UserServiceStub(opened), **options)

    return call


def _asyncio(address: str, **options: Any) -> Any:
    async def call() -> Any:
        async with aio.channel(address, tracing=True) as opened:
            return await UserServiceStub(opened).GetUser(ADA, **options)

    return asyncio.run(call())


each_way = pytest.mark.parametrize(
    "call",
    [*map(_on_a_channel, (_blocking, _with_call, _future, _begun)), _asyncio],
    ids=["blocking", "with_call", "future", "begun", "asyncio"],
)


@each_way
def test_a_call_is_a_span_that_the_server_learns_of(recorded: Recorded, backend: Backend, call: Any) -> None:
    call(backend.address)
    (span,) = recorded.spans
    host, port = backend.address.split(":")
    assert (span.name, span.kind, span.status.status_code) == (GET_USER, SpanKind.CLIENT, StatusCode.UNSET)
    assert span.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": GET_USER,
        "rpc.response.status_code": "OK",
        "server.address": host,
        "server.port": int(port),
    }
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.version == version("handfast")
    context = span.context
    assert context is not None
    ids = f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"
    assert backend.metadata_values("traceparent") == {f"00-{ids}-{context.trace_flags:02x}"}


@each_way
def test_a_call_that_fails_says_by_which_code_and_no_more(recorded: Recorded, backend: Backend, call: Any) -> None:
    backend.behave = lambda context, attempt: context.abort(grpc.StatusCode.NOT_FOUND, "no ada@example.com")
    with pytest.raises(ServiceError):
        call(backend.address)
    (span,) = recorded.spans
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == span.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert "ada@example.com" not in span.to_json()


@each_way
def test_a_call_that_is_repeated_is_one_span(
    recorded: Recorded, backend: Backend, call: Any, short_pauses: None
) -> None:
    backend.fail(2)
    call(backend.address)
    (span,) = recorded.spans
    assert span.status.status_code is StatusCode.UNSET
    assert len(backend.received) == 3
    assert len(backend.metadata_values("traceparent")) == 1


@each_way
def test_a_call_that_is_not_sent_is_a_span_that_failed(recorded: Recorded, backend: Backend, call: Any) -> None:
    with propagating(Propagated(deadline_monotonic_s=0.0)), pytest.raises(ServiceError):
        call(backend.address)
    (span,) = recorded.spans
    assert span.attributes is not None
    assert span.attributes["error.type"] == "DEADLINE_EXCEEDED"
    assert not backend.received


@each_way
def test_what_the_application_does_is_the_parent(recorded: Recorded, backend: Backend, call: Any) -> None:
    with recorded.tracer.start_as_current_span("outer"):
        call(backend.address)
    span, outer = recorded.spans
    assert parent_of(span) == span_id(outer)


@each_way
@pytest.mark.parametrize("given", ["metadata", "propagated"])
def test_a_trace_that_is_given_is_continued(recorded: Recorded, backend: Backend, call: Any, given: str) -> None:
    """By metadata, as of another instrumentation; or by the call that a server serves, in a thread without a span."""
    if given == "metadata":
        call(backend.address, metadata=(("traceparent", TRACEPARENT), ("tracestate", "a=b")))
        assert backend.metadata_values("tracestate") == {"a=b"}
    else:
        with propagating(Propagated(traceparent=TRACEPARENT)):
            call(backend.address)
    (span,) = recorded.spans
    assert parent_of(span) == PARENT_ID
    assert backend.metadata_values("traceparent") == {f"00-{TRACE_ID}-{span_id(span)}-01"}


def test_a_call_that_is_cancelled_says_so(recorded: Recorded, backend: Backend) -> None:
    backend.behave = lambda context, attempt: context.abort(grpc.StatusCode.CANCELLED, "")
    with channel(backend.address, tracing=True) as opened:
        stub: Any = UserServiceStub(opened)
        begun = begin(stub.GetUser, ADA)
        begun.cancel()
        begun.cancel()
        stub.GetUser.future(ADA).cancel()
    assert [dict(span.attributes or {})["error.type"] for span in recorded.spans] == ["CANCELLED", "CANCELLED"]


def test_streams_end_with_their_last_reply(recorded: Recorded, backend: Backend) -> None:
    with channel(backend.address, tracing=True) as opened:
        stream: Any = opened.unary_stream("/no.Such/Stream")
        with pytest.raises(ServiceError):
            list(stream(b""))
        others: Any = [opened.stream_unary("/no.Such/Stream"), opened.stream_stream("/no.Such/Stream")]
        with pytest.raises(ServiceError):
            others[0](iter([b""]))
        with pytest.raises(ServiceError):
            list(others[1](iter([b""])))
    assert [(span.name, span.status.status_code) for span in recorded.spans] == [
        ("no.Such/Stream", StatusCode.ERROR)
    ] * 3


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_stream_that_its_caller_drops_is_a_span_that_was_cancelled(
    recorded: Recorded, backend: Backend, kind: str
) -> None:
    hold_streams(backend)

    def is_recorded() -> bool:
        return [dict(span.attributes or {})["error.type"] for span in recorded.spans] == ["CANCELLED"]

    async def run() -> None:
        async with aio.channel(backend.address, tracing=True) as opened:
            stub: Any = opened
            assert await stub.unary_stream(COUNT)(b"").read() == b"1"
            assert await asyncio.to_thread(eventually, is_recorded)

    if kind == "asyncio":
        asyncio.run(run())
    else:
        with channel(backend.address, tracing=True) as opened:
            stub: Any = opened
            assert next(stub.unary_stream(COUNT)(b"")) == b"1"
            assert eventually(is_recorded)


def test_without_tracing_there_is_no_span_and_no_header(recorded: Recorded, backend: Backend) -> None:
    with recorded.tracer.start_as_current_span("outer"), channel(backend.address) as opened:
        UserServiceStub(opened).GetUser(ADA)
    assert [span.name for span in recorded.spans] == ["outer"]
    assert backend.metadata_values("traceparent") == {None}


@pytest.fixture
def traced(addresses: dict[str, str], recorded: Recorded) -> Iterator[Suite]:
    with connect(addresses["users"], addresses["preferences"], addresses["accounts"], tracing=True) as suite:
        yield suite


def test_a_transaction_is_a_span_around_its_calls(recorded: Recorded, client: Suite, traced: Suite) -> None:
    user = create_user(client)
    user.email = new_email()
    with traced.transaction() as tx:
        tx.users.UpdateUser(UpdateUserRequest(user=user))
    *calls, transaction = recorded.spans
    assert (transaction.name, transaction.parent) == ("transaction", None)
    assert transaction.attributes == {"handfast.transaction_id": tx.id, "handfast.outcome": "committed"}
    assert {parent_of(span) for span in calls} == {span_id(transaction)}
    assert {"CommitTransaction", "UpdateUser"} <= {span.name.rpartition("/")[2] for span in calls}


def test_a_transaction_that_fails_says_why(recorded: Recorded, client: Suite, traced: Suite) -> None:
    with pytest.raises(Aborted), traced.transaction() as tx:
        tx.users.UpdateUser(UpdateUserRequest(user=User(user_id=create_user(client).user_id, etag="stale")))
    transaction = recorded.spans[-1]
    assert transaction.status.status_code is StatusCode.ERROR
    outcome = {"handfast.transaction_id": tx.id, "handfast.outcome": "aborted", "error.type": "USER_CHANGED"}
    assert transaction.attributes == outcome


@pytest.mark.parametrize("leaves", ["thread", "task"])
def test_a_transaction_that_is_left_in_another_context_ends_its_span(
    recorded: Recorded, traced: Suite, caplog: pytest.LogCaptureFixture, leaves: str
) -> None:
    """As a block that another thread leaves, or an asynchronous generator that the event loop closes in a new task."""
    transaction = traced.transaction()
    begun = contextvars.copy_context()
    begun.run(transaction.__enter__)
    left = begun.copy() if leaves == "task" else contextvars.copy_context()
    left.run(transaction.__exit__, None, None, None)
    assert [span.name for span in recorded.spans] == ["transaction"]
    assert recorded.spans[0].attributes == {"handfast.outcome": "committed"}  # there was no call
    assert not caplog.records

    def go_on() -> None:
        with suppress(NotFound):
            traced.users.GetUser(ADA)
        with traced.transaction():
            pass

    begun.run(go_on)
    assert [parent_of(span) for span in recorded.spans[1:]] == ["", ""]


def test_transactions_that_are_left_in_the_order_in_which_they_were_entered_leave_no_span_current(
    recorded: Recorded, traced: Suite
) -> None:
    first, second = traced.transaction(), traced.transaction()
    with recorded.tracer.start_as_current_span("around") as around:
        first.__enter__()
        inner = trace.get_current_span()
        second.__enter__()
        first.__exit__(None, None, None)
        assert trace.get_current_span() not in (around, inner)  # but that of the second
        second.__exit__(None, None, None)
        assert trace.get_current_span() is around


def test_an_exception_of_the_application_is_named_by_its_class(recorded: Recorded, traced: Suite) -> None:
    with pytest.raises(ValueError, match="ada"), traced.transaction():
        raise ValueError("ada@example.com")
    (transaction,) = recorded.spans
    assert transaction.attributes is not None
    assert transaction.attributes["error.type"] == "ValueError"
    assert "ada@example.com" not in transaction.to_json()


def test_a_transaction_of_asyncio_is_a_span_around_its_calls(
    recorded: Recorded, client: Suite, addresses: dict[str, str]
) -> None:
    user = create_user(client)

    async def run() -> None:
        async with (
            aio.connect(addresses["users"], addresses["preferences"], addresses["accounts"], tracing=True) as suite,
            suite.transaction() as tx,
        ):
            await asyncio.gather(*(tx.users.GetUser(GetUserRequest(user_id=user.user_id)) for _ in range(2)))

    asyncio.run(run())
    *calls, transaction = recorded.spans
    assert transaction.name == "transaction"
    assert {parent_of(span) for span in calls} == {span_id(transaction)}
    assert [span.name for span in calls].count(GET_USER) == 2
