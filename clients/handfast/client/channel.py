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
from handfast.client.arguments import check_timeout
from handfast.client.closing import Gate
from handfast.client.methods import CLIENT_STREAMING, Method, Serializer
from handfast.client.multicallables import StreamStream, StreamUnary, UnaryStream, UnaryUnary
from handfast.client.security.security import Security, security_of
from handfast.client.security.tls import TLS
from handfast.client.security.tokens import Token

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
    tls: TLS | None = None,
    token: Token | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    interceptors: Sequence[Interceptor] = (),
) -> grpc.Channel:
    """A channel to `address` for the stubs of any service, connected when it is first used.

    `timeout` in seconds is for calls that give none; streams have none unless they give one. Its calls raise
    ServiceError. Raises ValueError or TypeError on what cannot be an address, a timeout, `tls`, a token or credentials,
    as its calls do on what cannot be a request, a timeout or metadata.

    It speaks plain text, or TLS by the files of `tls`, or whatever `credentials` of gRPC say in their place. `token` is
    a bearer token that all calls carry, or a function that returns one. The function is called in another thread, again
    before the token expires (the `exp` of a JWT), and where a server refuses it as UNAUTHENTICATED; the call that met
    that is made once more where it may be. Where the function fails, calls raise Unauthenticated, and are not sent. In
    plain text a token is sent to this machine only.

    `interceptors`, the first outermost, see each call once, as it goes out: with its deadline, its request id and the
    rest of its metadata, and with the errors of gRPC. Those that want to see what callers see go around the channel:
    `grpc.intercept_channel(channel(address), interceptor)`.
    """
    check_address(address, setting="address")
    return WellBehaved(address, security_of(credentials, tls, token), check_timeout(timeout), interceptors)


class WellBehaved(grpc.Channel):
    """What `channel` returns."""

    def __init__(
        self,
        address: str,
        security: Security | grpc.ChannelCredentials | None,
        timeout: float,
        interceptors: Sequence[Interceptor],
    ) -> None:
        self._retrying = _grpc_channel(address, security, options.retrying(address), True, interceptors)
        self._plain = _grpc_channel(address, security, options.plain(address), False, interceptors)
        self._timeout = timeout
        self._gate = Gate()

    # `arguments` and `named` are the deserializer, and what generated code of some versions passes besides.

    def unary_unary(
        self, method: str, request_serializer: Serializer = None, *arguments: Any, **named: Any
    ) -> UnaryUnary:
        with self._gate.open():
            plain = self._plain.unary_unary(method, request_serializer, *arguments, **named)
            retrying = self._retrying.unary_unary(method, request_serializer, *arguments, **named)
        return UnaryUnary(Method.find(method, self._timeout, request_serializer), plain, retrying)

    def unary_stream(
        self, method: str, request_serializer: Serializer = None, *arguments: Any, **named: Any
    ) -> UnaryStream:
        with self._gate.open():
            plain = self._plain.unary_stream(method, request_serializer, *arguments, **named)
        return UnaryStream(Method.find(method, None, request_serializer), plain)

    def stream_unary(self, method: str, *arguments: Any, **named: Any) -> StreamUnary:
        with self._gate.open():
            return StreamUnary(CLIENT_STREAMING, self._plain.stream_unary(method, *arguments, **named))

    def stream_stream(self, method: str, *arguments: Any, **named: Any) -> StreamStream:
        with self._gate.open():
            return StreamStream(CLIENT_STREAMING, self._plain.stream_stream(method, *arguments, **named))

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        self._retrying.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._retrying.unsubscribe(callback)

    def close(self) -> None:
        self._gate.close()
        self._retrying.close()
        self._plain.close()

    def __enter__(self) -> WellBehaved:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _grpc_channel(
    address: str,
    security: Security | grpc.ChannelCredentials | None,
    chosen: options.Options,
    repeats: bool,
    interceptors: Sequence[Interceptor],
) -> grpc.Channel:
    if security is None:
        bare = grpc.insecure_channel(address, chosen)
    elif isinstance(security, grpc.ChannelCredentials):
        bare = grpc.secure_channel(address, security, chosen)
    else:
        from handfast.client.security.channel import SecuredChannel

        bare = SecuredChannel(address, chosen, security, repeats)
    return grpc.intercept_channel(bare, *interceptors)
