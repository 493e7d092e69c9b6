"""A channel whose calls are spans.

A span stands for a call as its caller sees it: attempts that gRPC makes by itself are part of it. Attributes are those
of the semantic conventions for gRPC (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/); they say what was called
and how that ended, and nothing of requests and replies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import grpc
from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind

from handfast.client.addresses import hosts_of
from handfast.client.arguments import check_metadata
from handfast.client.propagation import CURRENT, TRACEPARENT_KEY
from handfast.client.tracing.attributes import METHOD, RPC, SERVER_ADDRESS, SERVER_PORT, STATUS_CODE
from handfast.client.tracing.spans import Unrecorded, error_type, fail, headers_of, parent_in, tracer
from handfast.client.tracing.transaction import still_open

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
        headers, parent = dict(given), still_open(context.get_current())
        current = trace.get_current_span(parent)
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
