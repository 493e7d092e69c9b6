"""What `stub.Method` is on an asyncio channel: prepares each call, and has gRPC make it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import grpc
from grpc import aio

from handfast.client.aio.calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from handfast.client.arguments import check_metadata
from handfast.client.generation import Generation, Make
from handfast.client.methods import Method

Metadata = Iterable[tuple[str, str | bytes]] | None


class _MultiCallable:
    """Calls gRPC's own multi-callables, which `make` makes on the two channels that `options` explains."""

    call_class: ClassVar[type[Any]]
    is_repeated: ClassVar[bool] = False
    """Whether a call of it may be made on the channel that repeats calls."""

    def __init__(self, method: Method, make: Make) -> None:
        self._method, self._make = method, make

    def go_by(self, generation: Generation) -> None:
        """Calls that are made from now on go out on it."""
        plain = generation.method(self._make, generation.plain)
        self._retrying = generation.method(self._make, generation.retrying) if self.is_repeated else plain
        self._plain = plain

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        out = self._method.outgoing(request, timeout, check_metadata(metadata))
        inner = self._retrying if out.retry else self._plain
        call = inner(
            out.request,
            timeout=out.timeout,
            metadata=out.metadata,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )
        return self.call_class(call, out.request_id, inner)


# gRPC's classes are not all generic outside their stubs.


class UnaryUnary(_MultiCallable, aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    call_class = UnaryUnaryCall
    is_repeated = True


class UnaryStream(_MultiCallable, aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    call_class = UnaryStreamCall


class StreamUnary(_MultiCallable, aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    call_class = StreamUnaryCall


class StreamStream(_MultiCallable, aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    call_class = StreamStreamCall
