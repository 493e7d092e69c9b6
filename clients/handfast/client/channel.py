"""The synchronous channel: a `grpc.Channel` on which any generated stub behaves well.

Each method of a stub is wrapped once, when the stub is made. This is no chain of client interceptors, as one
that looks at the outcome of a call makes `.future` wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc

from handfast.client.addresses import check_address
from handfast.client.arguments import check_keepalive, check_timeout
from handfast.client.closing import Gate
from handfast.client.generation import Called, Generation, Generations, server_name
from handfast.client.methods import CLIENT_STREAMING, Method, Serializer
from handfast.client.multicallables import StreamStream, StreamUnary, UnaryStream, UnaryUnary
from handfast.client.options import DEFAULT_KEEPALIVE, Options
from handfast.client.replicas import Replicas
from handfast.client.security.given import security_of

if TYPE_CHECKING:
    from handfast.client.security.security import Security
    from handfast.client.security.tls import TLS
    from handfast.client.security.tokens import Token

DEFAULT_TIMEOUT = 10.0

Channel = TypeVar("Channel")

Watcher: TypeAlias = Callable[[grpc.ChannelConnectivity], None]

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
    keepalive_seconds: float = DEFAULT_KEEPALIVE,
    tracing: bool = False,
) -> grpc.Channel:
    """A channel to `address` for the stubs of any service, connected when it is first used.

    An address is one of gRPC (`host:port`, `dns:///host:port`, …) or a list with commas (`a:50051,b:50051`). Calls go
    round all servers that it stands for which are healthy. Names are looked up now, and again every few seconds. To
    make a stub waits for the first look-up, up to 2 seconds.

    `timeout` in seconds is for calls that give none; streams have none unless they give one. Its calls raise
    ServiceError. Raises ValueError or TypeError on what cannot be an address, a timeout, `tls`, a token or credentials,
    as its calls do on what cannot be a request, a timeout or metadata.

    After `keepalive_seconds` without a word from a server it is asked for a sign of life, and after as many more
    without an answer its calls end as Unavailable, or go to another. Servers on the chassis allow 0.5 and more. Others
    may end connections on which they are asked often.

    It speaks plain text, or TLS by the files of `tls`, or whatever `credentials` of gRPC say in their place. `token` is
    a bearer token that all calls carry, or a function that returns one. The function is called in another thread, again
    before the token expires (the `exp` of a JWT), and where a server refuses it as UNAUTHENTICATED; the call that met
    that is made once more where it may be. Where the function fails, calls raise Unauthenticated, and are not sent. In
    plain text a token is sent to this machine only.

    `interceptors`, the first outermost, see each call once, as it goes out: with its deadline, its request id and the
    rest of its metadata, and with the errors of gRPC. Those that want to see what callers see go around the channel:
    `grpc.intercept_channel(channel(address), interceptor)`.

    With `tracing` each call is a span of OpenTelemetry, by the tracer provider of the application, and the server
    continues its trace. It needs `handfast[otel]`; ValueError says so where that is missing.
    """
    check_address(address, setting="address")
    security = security_of(credentials, tls, token)
    return channel_class(WellBehaved, tracing)(
        address, security, check_timeout(timeout), interceptors, check_keepalive(keepalive_seconds)
    )


def channel_class(base: type[Channel], tracing: bool) -> type[Channel]:
    """`base`, or with `tracing` one whose calls are traced. Raises TypeError where it is no bool, and ValueError where
    OpenTelemetry is missing."""
    if not isinstance(tracing, bool):
        raise TypeError(f"tracing: must be True or False, not {tracing!r}")
    if not tracing:
        return base
    try:
        from handfast.client.tracing.channel import traced
    except ModuleNotFoundError:
        raise ValueError("tracing: needs OpenTelemetry; install it by: pip install 'handfast[otel]'") from None
    return traced(base)


class WellBehaved(grpc.Channel):
    """What `channel` returns."""

    def __init__(
        self,
        address: str,
        security: Security | grpc.ChannelCredentials | None,
        timeout: float,
        interceptors: Sequence[Interceptor],
        keepalive_s: float,
    ) -> None:
        name = server_name(address, security)
        self._timeout = timeout
        self._gate = Gate()
        self._watchers: list[tuple[Watcher, bool]] = []
        """Of the connectivity, each with whether it has the channel connect. They move on to the next generation."""

        def open_channel(target: str, chosen: Options, repeats: bool) -> grpc.Channel:
            return _grpc_channel(target, security, chosen, repeats, interceptors)

        self._replicas = Replicas(address)
        self._generations = Generations(
            lambda target: Generation(target, address, name, keepalive_s, open_channel), self._replicas.target
        )
        self._replicas.when_looked_up(self._move)

    # `arguments` and `named` are the deserializer, and what generated code of some versions passes besides.

    def unary_unary(
        self, method: str, request_serializer: Serializer = None, *arguments: Any, **named: Any
    ) -> UnaryUnary:
        known = Method.find(method, self._timeout, request_serializer)
        return self._add(
            UnaryUnary(known, lambda channel: channel.unary_unary(method, request_serializer, *arguments, **named))
        )

    def unary_stream(
        self, method: str, request_serializer: Serializer = None, *arguments: Any, **named: Any
    ) -> UnaryStream:
        known = Method.find(method, None, request_serializer)
        return self._add(
            UnaryStream(known, lambda channel: channel.unary_stream(method, request_serializer, *arguments, **named))
        )

    def stream_unary(self, method: str, *arguments: Any, **named: Any) -> StreamUnary:
        return self._add(
            StreamUnary(CLIENT_STREAMING, lambda channel: channel.stream_unary(method, *arguments, **named))
        )

    def stream_stream(self, method: str, *arguments: Any, **named: Any) -> StreamStream:
        return self._add(
            StreamStream(CLIENT_STREAMING, lambda channel: channel.stream_stream(method, *arguments, **named))
        )

    def _add(self, called: Called) -> Called:
        self._replicas.wait()
        with self._gate.open():
            return self._generations.add(called)

    def _move(self) -> None:
        """The address may stand for other servers now."""
        with self._gate.open():
            before = self._generations.present
            if self._generations.move(self._replicas.target):
                for callback, try_to_connect in tuple(self._watchers):
                    before.retrying.unsubscribe(callback)
                    self._generations.present.retrying.subscribe(callback, try_to_connect)

    def subscribe(self, callback: Watcher, try_to_connect: bool = False) -> None:
        """The callback moves on to a new connection where the address stands for other servers."""
        with self._gate.lock:
            self._generations.present.retrying.subscribe(callback, try_to_connect)
            self._watchers.append((callback, try_to_connect))

    def unsubscribe(self, callback: Watcher) -> None:
        with self._gate.lock:
            self._watchers = [each for each in self._watchers if each[0] != callback]
            self._generations.present.retrying.unsubscribe(callback)

    def close(self) -> None:
        self._replicas.close()
        self._gate.close(self._close)

    def _close(self) -> None:
        for each in self._generations.channels():
            each.close()

    def __enter__(self) -> WellBehaved:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _grpc_channel(
    address: str,
    security: Security | grpc.ChannelCredentials | None,
    chosen: Options,
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
