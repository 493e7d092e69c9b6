"""Spans of OpenTelemetry for the calls of a channel and for transactions, by the tracer provider of the application.

A span stands for a call as its caller sees it: attempts that gRPC makes by itself are part of it. Attributes are those
of the semantic conventions for gRPC (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/); they say what was called
and how that ended, and nothing of requests and replies. Imported only where a channel is traced, as it needs
OpenTelemetry.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Token
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import grpc
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from handfast.client.addresses import hosts_of
from handfast.client.arguments import check_metadata
from handfast.client.errors import ServiceError
from handfast.client.propagation import CURRENT, TRACEPARENT_KEY

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the semantic conventions."""
RPC = {"rpc.system.name": "grpc"}
METHOD, STATUS_CODE, ERROR_TYPE = "rpc.method", "rpc.response.status_code", "error.type"
SERVER_ADDRESS, SERVER_PORT = "server.address", "server.port"
TRANSACTION_ID, OUTCOME = "handfast.transaction_id", "handfast.outcome"
TRACESTATE_KEY = "tracestate"
_W3C = TraceContextTextMapPropagator()

Channel = TypeVar("Channel")


def traced(base: type[Channel]) -> type[Channel]:
    """A class of channels as `base`, one of this package, whose calls are traced."""
    return type("Traced", (_Traced, base), {})


class _Traced:
    """Comes before a class of channels, for calls that block or for asyncio."""

    def __init__(self, address: str, *others: Any) -> None:
        super().__init__(address, *others)  # type: ignore[call-arg]
        self._server = _server(address)

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        return self._method(method, super().unary_unary(method, *arguments, **named))  # type: ignore[misc]

    def unary_stream(self, method: str, *arguments: Any, **named: Any) -> Any:
        return self._method(method, super().unary_stream(method, *arguments, **named))  # type: ignore[misc]

    def stream_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        return self._method(method, super().stream_unary(method, *arguments, **named))  # type: ignore[misc]

    def stream_stream(self, method: str, *arguments: Any, **named: Any) -> Any:
        return self._method(method, super().stream_stream(method, *arguments, **named))  # type: ignore[misc]

    def _method(self, path: str, inner: Any) -> Any:
        return _TracedMethod(inner, path.removeprefix("/"), self._server)


class _TracedMethod:
    """What `stub.Method` is on such a channel."""

    def __init__(self, inner: Any, name: str, server: Mapping[str, str | int]) -> None:
        self._inner, self._name = inner, name
        self._tracer = tracer("handfast.client")
        self._attributes = {**RPC, METHOD: name, **server}

    def __call__(self, request: Any = None, timeout: Any = None, metadata: Any = None, *more: Any, **named: Any) -> Any:
        span, metadata = self._start(metadata)
        outcome = self._made(span, self._inner, request, timeout, metadata, *more, **named)
        if hasattr(outcome, "when_over"):  # a stream, or any call of asyncio
            if not outcome.when_over(lambda call: _end(span, _code_of(call))):
                span.end()  # it says no more than that the stream was begun
        else:
            _end(span, grpc.StatusCode.OK)
        return outcome

    def with_call(self, request: Any, timeout: Any = None, metadata: Any = None, *more: Any, **named: Any) -> Any:
        span, metadata = self._start(metadata)
        outcome = self._made(span, self._inner.with_call, request, timeout, metadata, *more, **named)
        _end(span, grpc.StatusCode.OK)
        return outcome

    def future(self, request: Any, timeout: Any = None, metadata: Any = None, *more: Any, **named: Any) -> Any:
        span, metadata = self._start(metadata)
        future = self._made(span, self._inner.future, request, timeout, metadata, *more, **named)
        future.when_over(lambda call: _end(span, _code_of(call)))
        return future

    def begin(self, request: Any, timeout: Any = None, metadata: Any = ()) -> Any:
        span, metadata = self._start(metadata)
        return _TracedBegun(self._made(span, self._inner.begin, request, timeout, metadata), span)

    def _start(self, metadata: Any) -> tuple[Span, tuple[tuple[str, str | bytes], ...]]:
        """The span of a call, and its metadata with that. Its parent is what the metadata says, or what is current, or
        the call that is being served."""
        given = check_metadata(metadata)
        headers, current, parent = dict(given), trace.get_current_span(), None
        if TRACEPARENT_KEY in headers:
            parent = parent_in(headers)
        elif isinstance(current, Unrecorded):
            return current, _with_headers(given, current.headers)
        elif (traceparent := CURRENT.get().traceparent) and not current.get_span_context().is_valid:
            parent = parent_in({TRACEPARENT_KEY: traceparent})
        span = self._tracer.start_span(self._name, parent, SpanKind.CLIENT, self._attributes)
        return span, _with_headers(given, headers_of(span.get_span_context()))

    def _made(self, span: Span, make: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return make(*arguments, **named)
        except BaseException as error:
            _fail(span, error)
            raise


class _TracedBegun:
    """A call that is begun beside others (`begun_call.py`)."""

    def __init__(self, inner: Any, span: Span) -> None:
        self._inner, self._span = inner, span
        self.initial_metadata, self.trailing_metadata = inner.initial_metadata, inner.trailing_metadata

    def result(self) -> Any:
        try:
            reply = self._inner.result()
        except BaseException as error:
            _fail(self._span, error)
            raise
        _end(self._span, grpc.StatusCode.OK)
        return reply

    def cancel(self) -> None:
        self._inner.cancel()
        _end(self._span, grpc.StatusCode.CANCELLED)  # unless it is over already: the first end counts


class Unrecorded(NonRecordingSpan):
    """The span of a call of which nothing is recorded, as is known of all within it, too: that needs no spans."""

    def __init__(self, span_context: SpanContext) -> None:
        super().__init__(span_context)
        self.headers = headers_of(span_context)


class TransactionSpan:
    """The span of a transaction, which is current within its block."""

    def __init__(self) -> None:
        self._span = tracer("handfast.client").start_span("transaction")
        self._token: Token[context.Context] = context.attach(trace.set_span_in_context(self._span))
        self.traceparent = headers_of(self._span.get_span_context()).get(TRACEPARENT_KEY)
        """Of its calls, also in other threads, where it is not current."""

    def end(self, error: BaseException | None, transaction_id: str, outcome: str) -> None:
        with suppress(ValueError):  # its block is left in another thread or task, of which `context.detach` would log
            self._token.var.reset(self._token)
        self._span.set_attribute(OUTCOME, str(outcome))
        if transaction_id:  # else it had no call
            self._span.set_attribute(TRANSACTION_ID, transaction_id)
        if error is not None:
            fail(self._span, error_type(error))
        self._span.end()


def tracer(of: str) -> Tracer:
    """What makes the spans of `handfast.client` or `handfast.server`, which have the version of Handfast."""
    return trace.get_tracer(of, _version(), schema_url=SCHEMA)


@functools.cache
def _version() -> str | None:
    try:
        return version("handfast")
    except PackageNotFoundError:  # it runs from sources that are not installed
        return None


def parent_in(headers: Mapping[str, str | bytes]) -> context.Context:
    """The span that metadata names as the parent of what follows, in a context of its own; none in an empty one."""
    ours = {key: value for key in (TRACEPARENT_KEY, TRACESTATE_KEY) if isinstance(value := headers.get(key), str)}
    return _W3C.extract(ours, context.Context())


def headers_of(span: SpanContext) -> dict[str, str]:
    """The metadata by which others learn of a span; none of one that is not valid, as without an SDK."""
    if not span.is_valid:
        return {}
    # As `_W3C.inject` writes it, for a third of the time.
    headers = {TRACEPARENT_KEY: f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"}
    if span.trace_state:
        headers[TRACESTATE_KEY] = span.trace_state.to_header()
    return headers


def error_type(error: BaseException) -> str:
    """What `error.type` is of it: the reason of who refused, or the class."""
    return (isinstance(error, ServiceError) and error.reason) or type(error).__qualname__


def fail(span: Span, error: str) -> None:
    """Has the span say that it failed. Messages of errors may have personal data, so they are left out."""
    span.set_attribute(ERROR_TYPE, error)
    span.set_status(StatusCode.ERROR)


def _with_headers(
    given: tuple[tuple[str, str | bytes], ...], headers: Mapping[str, str]
) -> tuple[tuple[str, str | bytes], ...]:
    return (*(entry for entry in given if entry[0] not in headers), *headers.items())


def _end(span: Span, code: grpc.StatusCode) -> None:
    if span.is_recording():
        span.set_attribute(STATUS_CODE, code.name)
        if code is not grpc.StatusCode.OK:
            fail(span, code.name)
        span.end()


def _fail(span: Span, error: BaseException) -> None:
    if isinstance(error, grpc.RpcError):
        _end(span, error.code())
    elif isinstance(error, grpc.FutureCancelledError):
        _end(span, grpc.StatusCode.CANCELLED)
    elif span.is_recording():  # it was not sent, or its caller was interrupted
        fail(span, error_type(error))
        span.end()


def _code_of(call: Any) -> grpc.StatusCode:
    """Of a call that is over, so that nothing is waited for."""
    code = call.code()
    if isinstance(code, grpc.StatusCode):
        return code
    try:
        code.send(None)  # a coroutine, on a channel for asyncio
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    except grpc.RpcError as error:
        return error.code()
    code.close()
    return grpc.StatusCode.UNKNOWN


def _server(address: str) -> dict[str, str | int]:
    """The host and the port of an address that has one of each; else all of it, as a name for the servers there."""
    hosts = hosts_of(address)
    return {SERVER_ADDRESS: hosts[0].name, SERVER_PORT: hosts[0].port} if len(hosts) == 1 else {SERVER_ADDRESS: address}
