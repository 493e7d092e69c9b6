"""The synchronous channel: a `grpc.Channel` on which any generated stub behaves well.

Each method of a stub is wrapped once, when the stub is made. This is no chain of client interceptors, as one
that looks at the outcome of a call makes `.future` wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import grpc

from handfast.client import options
from handfast.client.addresses import check_address
from handfast.client.arguments import check_credentials, check_timeout
from handfast.client.methods import CLIENT_STREAMING, Method, Serializer
from handfast.client.multicallables import StreamStream, StreamUnary, UnaryStream, UnaryUnary

DEFAULT_TIMEOUT = 10.0

Interceptor: TypeAlias = (
    grpc.UnaryUnaryClientInterceptor
    | grpc.UnaryStreamClientInterceptor
    | grpc.StreamUnaryClientInterceptor
    | grpc.StreamStreamClientInterceptor
)


def channel(
    address: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    interceptors: Sequence[Interceptor] = (),
) -> grpc.Channel:
    """A channel to `address` for the stubs of any service, connected when it is first used.

    `timeout` in seconds is for calls that give none; streams have none unless they give one. Without
    `credentials` it speaks plain text. Its calls raise ServiceError. Raises ValueError or TypeError on what cannot
    be an address, a timeout or credentials, as its calls do on what cannot be a request, a timeout or metadata.

    `interceptors`, the first outermost, see each call once, as it goes out: with its deadline, its request id and the
    rest of its metadata, and with the errors of gRPC. Those that want to see what callers see go around the channel:
    `grpc.intercept_channel(channel(address), interceptor)`.
    """
    return _Channel(
        check_address(address, setting="address"), check_credentials(credentials), check_timeout(timeout), interceptors
    )


class _Channel(grpc.Channel):
    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None,
        timeout: float,
        interceptors: Sequence[Interceptor],
    ) -> None:
        self._retrying = _grpc_channel(address, credentials, options.retrying(address), interceptors)
        self._plain = _grpc_channel(address, credentials, options.plain(address), interceptors)
        self._timeout = timeout

    # `arguments` and `named` are the deserializer, and what generated code of some versions passes besides.

    def unary_unary(
        self, method: str, request_serializer: Serializer = None, *arguments: Any, **named: Any
    ) -> UnaryUnary:
        plain = self._plain.unary_unary(method, request_serializer, *arguments, **named)
        retrying = self._retrying.unary_unary(method, request_serializer, *arguments, **named)
        return UnaryUnary(Method.find(method, self._timeout, request_serializer), plain, retrying)

    def unary_stream(
        self, method: str, request_serializer: Serializer = None, *arguments: Any, **named: Any
    ) -> UnaryStream:
        plain = self._plain.unary_stream(method, request_serializer, *arguments, **named)
        return UnaryStream(Method.find(method, None, request_serializer), plain)

    def stream_unary(self, method: str, *arguments: Any, **named: Any) -> StreamUnary:
        return StreamUnary(CLIENT_STREAMING, self._plain.stream_unary(method, *arguments, **named))

    def stream_stream(self, method: str, *arguments: Any, **named: Any) -> StreamStream:
        return StreamStream(CLIENT_STREAMING, self._plain.stream_stream(method, *arguments, **named))

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        self._retrying.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._retrying.unsubscribe(callback)

    def close(self) -> None:
        self._retrying.close()
        self._plain.close()

    def __enter__(self) -> _Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _grpc_channel(
    address: str,
    credentials: grpc.ChannelCredentials | None,
    chosen: options.Options,
    interceptors: Sequence[Interceptor],
) -> grpc.Channel:
    if credentials is None:
        bare = grpc.insecure_channel(address, chosen)
    else:
        bare = grpc.secure_channel(address, credentials, chosen)
    return grpc.intercept_channel(bare, *interceptors)
