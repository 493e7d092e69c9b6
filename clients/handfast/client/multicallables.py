"""What `stub.Method` is on a synchronous channel: prepares each call, has gRPC make it, and types its errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from handfast.client.arguments import check_metadata
from handfast.client.begun_call import BegunCall
from handfast.client.calls import CallFuture, CallIterator
from handfast.client.errors import service_error
from handfast.client.generation import Generation, Make
from handfast.client.methods import Method, Outgoing

Metadata = Iterable[tuple[str, str | bytes]] | None


class _MultiCallable:
    """Calls gRPC's own multi-callables, which `make` makes on the two channels that `options` explains. What a call is
    given `more`, such as its credentials and `wait_for_ready`, goes on to them."""

    is_repeated = False
    """Whether a call of it may be made on the channel that repeats calls."""

    def __init__(self, method: Method, make: Make) -> None:
        self._method, self._make = method, make

    def go_by(self, generation: Generation) -> None:
        """Calls that are made from now on go out on it."""
        plain = generation.method(self._make, generation.plain)
        self._retrying = generation.method(self._make, generation.retrying) if self.is_repeated else plain
        self._plain = plain

    def _prepare(self, request: Any, timeout: float | None, metadata: Metadata) -> tuple[Any, Outgoing]:
        outgoing = self._method.outgoing(request, timeout, check_metadata(metadata))
        return self._inner(outgoing), outgoing

    def _inner(self, outgoing: Outgoing) -> Any:
        return self._retrying if outgoing.retry else self._plain


class _UnaryResponse(_MultiCallable):
    def __call__(
        self, request: Any, timeout: float | None = None, metadata: Metadata = None, *more: Any, **named: Any
    ) -> Any:
        inner, out = self._prepare(request, timeout, metadata)
        try:
            return inner(out.request, out.timeout, out.metadata, *more, **named)
        except grpc.RpcError as error:
            raise service_error(error, out.request_id) from error

    def with_call(
        self, request: Any, timeout: float | None = None, metadata: Metadata = None, *more: Any, **named: Any
    ) -> tuple[Any, grpc.Call]:
        inner, out = self._prepare(request, timeout, metadata)
        try:
            return inner.with_call(  # type: ignore[no-any-return]
                out.request, out.timeout, out.metadata, *more, **named
            )
        except grpc.RpcError as error:
            raise service_error(error, out.request_id) from error

    def future(
        self, request: Any, timeout: float | None = None, metadata: Metadata = None, *more: Any, **named: Any
    ) -> Any:
        inner, out = self._prepare(request, timeout, metadata)
        try:
            call = inner.future(out.request, out.timeout, out.metadata, *more, **named)
        except grpc.RpcError as error:  # the request cannot be serialized
            raise service_error(error, out.request_id) from error
        return CallFuture(call, out.request_id, inner)


class _StreamResponse(_MultiCallable):
    def __call__(
        self, request: Any, timeout: float | None = None, metadata: Metadata = None, *more: Any, **named: Any
    ) -> Any:
        inner, out = self._prepare(request, timeout, metadata)
        try:
            call = inner(out.request, out.timeout, out.metadata, *more, **named)
        except grpc.RpcError as error:  # the request cannot be serialized
            raise service_error(error, out.request_id) from error
        return CallIterator(call, out.request_id, inner)


# gRPC's classes are generic in their stubs only.


class UnaryUnary(_UnaryResponse, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    is_repeated = True

    def begin(
        self, request: Any, timeout: float | None = None, metadata: tuple[tuple[str, str | bytes], ...] = ()
    ) -> Any:
        """Begins a call that has no thread of its own, where gRPC and its interceptors let it. The metadata is taken
        as it is: who begins calls makes it itself."""
        out = self._method.outgoing(request, timeout, metadata)
        inner = self._inner(out)
        try:
            return inner.begin(out) if hasattr(inner, "begin") else BegunCall(inner, out)
        except grpc.RpcError as error:  # the request cannot be serialized
            raise service_error(error, out.request_id) from error
        except (AttributeError, TypeError):  # what has interceptors is none of gRPC's own calls
            return CallFuture(inner.future(out.request, out.timeout, out.metadata), out.request_id, inner)


class StreamUnary(_UnaryResponse, grpc.StreamUnaryMultiCallable):  # type: ignore[misc, type-arg]
    pass


class UnaryStream(_StreamResponse, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    pass


class StreamStream(_StreamResponse, grpc.StreamStreamMultiCallable):  # type: ignore[misc, type-arg]
    pass
