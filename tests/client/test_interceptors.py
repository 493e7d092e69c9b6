"""Interceptors around the client's channel and inside it, those of well-known libraries too: they find in calls and
errors what gRPC's own have, and callers get the same replies and errors as without them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
import grpc_interceptor
import pytest
import sentry_sdk
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient, client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel as opentelemetry_channel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.integrations.grpc import GRPCIntegration
from sentry_sdk.integrations.grpc.client import ClientInterceptor as SentryInterceptor

from handfast.client import NotFound, ServiceError, aio, channel, connect
from handfast.client.aio import connect as aio_connect
from handfast.client.calls import CallFuture, CallIterator
from handfast.users.v1.users_pb2 import GetUserRequest
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.eventually import eventually

from .backend import WITHOUT_CONTRACT, Backend
from .test_every_face import ASYNCIO, SYNC, Way, requests_written, seen, seen_asynchronously, unary, whole

SPEND, COUNT, COLLECT, GATHER = (f"{WITHOUT_CONTRACT}/{name}" for name in ("Spend", "Count", "Collect", "Gather"))
GONE = grpc.StatusCode.NOT_FOUND


class Noting(grpc_interceptor.ClientInterceptor):
    """Notes what calls of all arities go out with, and what comes back for them."""

    def __init__(self) -> None:
        self.details: list[grpc.ClientCallDetails] = []
        self.outcomes: list[Any] = []

    def intercept(self, method: Any, request_or_iterator: Any, call_details: grpc.ClientCallDetails) -> Any:
        self.details.append(call_details)
        self.outcomes.append(method(request_or_iterator, call_details))
        return self.outcomes[-1]


class NotingUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.details: list[Any] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.details.append(details)
        call = await continuation(details, request)
        await call.code()
        return call


class NotingReplies(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


class NotingRequests(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(details, requests)


class NotingBoth(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(details, requests)


def noting_asynchronously() -> list[grpc.aio.ClientInterceptor]:
    return [NotingUnary(), NotingReplies(), NotingRequests(), NotingBoth()]


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Where OpenTelemetry's spans go. There is one provider in a process, and nothing else here has one."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    exporter.clear()
    return exporter


@pytest.fixture
def opentelemetry(spans: InMemorySpanExporter) -> Iterator[None]:
    """As `opentelemetry-instrument` does it: all channels that are made from now on are traced."""
    instrumentors = (GrpcInstrumentorClient(), GrpcAioInstrumentorClient())
    for each in instrumentors:
        each.instrument()
    yield
    for each in instrumentors:
        each.uninstrument()


@pytest.fixture
def sentry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As `sentry_sdk.init` does it, where grpcio is installed, but nothing leaves this process."""
    for module, name in ((grpc, "insecure_channel"), (grpc, "secure_channel"), (grpc, "intercept_channel"),
                         (grpc.aio, "insecure_channel"), (grpc.aio, "secure_channel"),
                         (grpc, "server"), (grpc.aio, "server")):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name))  # so that it is set back
    GRPCIntegration.setup_once()
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(sentry_sdk.Client(traces_sample_rate=1.0, default_integrations=False))
        with sentry_sdk.start_transaction(name="test"):
            yield


AROUND: dict[str, Callable[[grpc.Channel], grpc.Channel]] = {
    "grpc_interceptor": lambda opened: grpc.intercept_channel(opened, Noting(), Noting()),
    "OpenTelemetry": lambda opened: opentelemetry_channel(opened, client_interceptor()),
    "Sentry": lambda opened: grpc.intercept_channel(opened, SentryInterceptor()),
}


@pytest.mark.parametrize("around", AROUND)
def test_a_caller_gets_the_same_errors_with_interceptors_around_the_channel(backend: Backend, around: str) -> None:
    backend.fail_with(whole(GONE))
    with channel(backend.address) as opened:
        assert seen(AROUND[around](opened)) == seen(opened)


@pytest.mark.parametrize("around", AROUND)
def test_a_caller_gets_the_same_replies_with_interceptors_around_the_channel(backend: Backend, around: str) -> None:
    with channel(backend.address) as opened:
        assert_replies(AROUND[around](opened))


def test_a_caller_gets_the_same_errors_and_replies_with_interceptors_inside_the_channel(backend: Backend) -> None:
    def inside() -> Any:
        return channel(backend.address, interceptors=[Noting(), Noting()])

    def inside_asynchronously() -> Any:
        return aio.channel(backend.address, interceptors=noting_asynchronously())

    assert_the_same(backend, inside, inside_asynchronously)


@pytest.mark.usefixtures("opentelemetry")
@pytest.mark.parametrize("tracing", [False, True])
def test_a_caller_gets_the_same_errors_and_replies_in_a_process_that_opentelemetry_instruments(
    backend: Backend, tracing: bool
) -> None:
    # Its asyncio interceptor waits for the status before a caller can write the first request.
    ways = [way for way in ASYNCIO if way is not requests_written]
    address = backend.address
    assert_the_same(
        backend, lambda: channel(address, tracing=tracing), lambda: aio.channel(address, tracing=tracing), ways
    )


@pytest.mark.usefixtures("sentry")
def test_a_caller_gets_the_same_errors_and_replies_in_a_process_that_sentry_instruments(backend: Backend) -> None:
    assert_the_same(backend, lambda: channel(backend.address), lambda: aio.channel(backend.address))
    traced = [received for received in backend.received if received.method in ("Spend", "Count")]  # as Sentry does it
    assert [received.method for received in traced if "sentry-trace" not in received.metadata] == []


def assert_the_same(
    backend: Backend,
    opening: Callable[[], Any],
    opening_asynchronously: Callable[[], Any],
    ways: Iterable[Way] = ASYNCIO,
) -> None:
    """On these channels a caller gets the replies that it gets on others, and the same error from all."""

    async def errors() -> dict[str, dict[str, object]]:
        async with opening_asynchronously() as opened:
            return await seen_asynchronously(opened, ways)

    async def replies() -> None:
        async with opening_asynchronously() as opened:
            await assert_replies_asynchronously(opened)

    with opening() as opened:
        assert_replies(opened)
        asyncio.run(replies())
        status = whole(GONE)
        backend.fail_with(status)
        all_errors = seen(opened) | asyncio.run(errors())
    first = all_errors["unary"]
    assert (first["class"], first["status_proto"]) == (NotFound, status)
    assert {name: each for name, each in all_errors.items() if each != first} == {}


def assert_replies(opened: Any) -> None:
    assert opened.unary_unary(SPEND)(b"1") == b"1"
    assert opened.unary_unary(SPEND).with_call(b"1")[0] == b"1"
    assert opened.unary_unary(SPEND).future(b"1").result(timeout=60) == b"1"
    assert list(opened.unary_stream(COUNT)(b"")) == [b"1", b"2"]
    assert opened.stream_unary(COLLECT)(iter([b"a"])) == b"done"
    assert opened.stream_unary(COLLECT).with_call(iter([b"a"]))[0] == b"done"
    assert opened.stream_unary(COLLECT).future(iter([b"a"])).result(timeout=60) == b"done"
    assert list(opened.stream_stream(GATHER)(iter([b"x", b"y"]))) == [b"xy"]


async def assert_replies_asynchronously(opened: Any) -> None:
    assert await opened.unary_unary(SPEND)(b"1") == b"1"
    assert [reply async for reply in opened.unary_stream(COUNT)(b"")] == [b"1", b"2"]
    assert await opened.stream_unary(COLLECT)(iter([b"a"])) == b"done"
    assert [reply async for reply in opened.stream_stream(GATHER)(iter([b"x", b"y"]))] == [b"xy"]


def test_interceptors_inside_see_each_call_once_as_it_goes_out(backend: Backend) -> None:
    noting = Noting()
    backend.fail(1)  # which is tried again
    with connect(users=backend.address, timeout=70, interceptors=[noting]) as suite:
        suite.users.GetUser(GetUserRequest())
    (details,) = noting.details
    assert details.timeout == 70
    assert {key for key, _ in details.metadata or ()} == {"x-request-id"}


def test_asyncio_interceptors_see_each_call_once_as_it_goes_out(backend: Backend) -> None:
    noting = NotingUnary()
    backend.fail(1)

    async def call() -> None:
        async with aio_connect(users=backend.address, timeout=70, interceptors=[noting]) as suite:
            await suite.users.GetUser(GetUserRequest())

    asyncio.run(call())
    (details,) = noting.details
    assert details.timeout == 70
    assert {key for key, _ in details.metadata} == {"x-request-id"}


def test_an_error_has_all_that_the_calls_and_futures_of_grpc_have(backend: Backend) -> None:
    backend.fail(1, GONE)
    noting = Noting()
    with channel(backend.address) as opened, pytest.raises(NotFound) as caught:
        UserServiceStub(grpc.intercept_channel(opened, noting)).GetUser(GetUserRequest())
    (error,) = noting.outcomes
    assert error is caught.value
    assert isinstance(error, grpc.Call)
    assert isinstance(error, grpc.Future)
    assert not lacking(error)

    assert (error.done(), error.running(), error.cancelled(), error.is_active()) == (True, False, False, False)
    assert (error.cancel(), error.time_remaining()) == (False, 0.0)
    assert "on purpose" in error.debug_error_string()
    with pytest.raises(NotFound) as again:
        error.result(timeout=1)
    assert again.value is error
    assert error.exception() is error
    assert error.traceback() is error.__traceback__ is not None
    called: list[object] = []
    error.add_done_callback(called.append)
    assert called == [error]
    assert not error.add_callback(lambda: called.append(None))
    assert called == [error]


def test_an_error_that_was_never_raised_has_a_traceback_all_the_same() -> None:
    assert ServiceError("made up").traceback() is not None


@pytest.mark.parametrize("ours", [CallFuture, CallIterator, ServiceError])
def test_what_a_call_gives_implements_the_whole_of_grpcs_calls_and_futures(ours: type) -> None:
    assert not lacking(ours)


def lacking(ours: object) -> set[str]:
    """What gRPC's own calls and errors can be asked, and `ours` cannot."""
    asked = {name for kind in (grpc.Call, grpc.Future) for name in dir(kind) if not name.startswith("_")}
    assert asked >= {"result", "exception", "traceback", "add_done_callback", "is_active", "cancelled", "code"}
    abstract = {name for name in asked if getattr(getattr(ours, name, None), "__isabstractmethod__", False)}
    return abstract | {name for name in (*asked, "debug_error_string") if not hasattr(ours, name)}


def test_a_stream_tells_an_interceptor_when_it_is_over(backend: Backend) -> None:
    noting = Noting()
    with channel(backend.address) as opened:
        stub: Any = grpc.intercept_channel(opened, noting).unary_stream(COUNT)
        responses = stub(b"")
        over: list[object] = []
        noting.outcomes[0].add_done_callback(over.append)
        assert list(responses) == [b"1", b"2"]
        assert responses.exception(timeout=60) is None
        assert eventually(lambda: over == [responses])

        backend.fail(1000, GONE)
        responses = stub(b"")
        with pytest.raises(NotFound) as caught:
            list(responses)
        assert responses.exception(timeout=60) is caught.value
        with pytest.raises(NotFound):
            responses.result(timeout=60)


class Bare(grpc.RpcError):
    """What an interceptor may raise: it says nothing that gRPC's own errors say."""


class Partial(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAUTHENTICATED

    def details(self) -> str:
        return "no token"


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [(Bare("no token"), grpc.StatusCode.UNKNOWN, "no token"), (Partial(), grpc.StatusCode.UNAUTHENTICATED, "no token")],
    ids=["bare", "partial"],
)
def test_whatever_an_interceptor_raises_as_an_error_of_grpc_is_typed(
    backend: Backend, raised: grpc.RpcError, code: grpc.StatusCode, message: str
) -> None:
    class Refusing(grpc_interceptor.ClientInterceptor):
        def intercept(self, method: Any, request_or_iterator: Any, call_details: grpc.ClientCallDetails) -> Any:
            raise raised

    class RefusingAsynchronously(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            raise raised

    async def call() -> None:
        async with aio.channel(backend.address, interceptors=[RefusingAsynchronously()]) as opened:
            await unary(opened)

    with channel(backend.address, interceptors=[Refusing()]) as opened:
        ways: list[Callable[[Any], object]] = [*SYNC.values(), lambda _: asyncio.run(call())]
        for way in ways:
            with pytest.raises(ServiceError) as caught:
                way(opened)
            assert (caught.value.code(), caught.value.message) == (code, message)
            assert caught.value.request_id
    assert backend.received == []


def test_opentelemetry_ends_a_span_for_each_call_with_the_code_of_that_call(
    backend: Backend, spans: InMemorySpanExporter
) -> None:
    backend.fail_with(whole(GONE))
    with channel(backend.address) as opened:
        seen(opentelemetry_channel(opened, client_interceptor()))
    # A thread of gRPC ends the spans of futures and streams, some time after their callers know.
    assert eventually(lambda: len(spans.get_finished_spans()) == len(SYNC))
    codes = {(span.attributes or {})["rpc.grpc.status_code"] for span in spans.get_finished_spans()}
    assert codes == {GONE.value[0]}


@pytest.mark.usefixtures("opentelemetry")
def test_the_trace_of_the_span_goes_with_the_call(backend: Backend, spans: InMemorySpanExporter) -> None:
    with connect(users=backend.address) as suite:
        suite.users.GetUser(GetUserRequest())

    async def call() -> None:
        async with aio_connect(users=backend.address) as suite:
            await suite.users.GetUser(GetUserRequest())

    asyncio.run(call())
    traces = [f"{span.context.trace_id:032x}" for span in spans.get_finished_spans()]
    sent = [str(received.metadata["traceparent"]).split("-")[1] for received in backend.received]
    assert sent == traces
    assert len(set(traces)) == 2
