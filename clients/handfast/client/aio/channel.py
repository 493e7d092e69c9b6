"""The asyncio channel: a `grpc.aio.Channel` on which any generated stub behaves well."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from handfast.client.addresses import check_address
from handfast.client.aio.multicallables import StreamStream, StreamUnary, UnaryStream, UnaryUnary
from handfast.client.arguments import check_keepalive, check_timeout
from handfast.client.channel import DEFAULT_TIMEOUT, channel_class
from handfast.client.generation import Generation, Generations, server_name
from handfast.client.methods import CLIENT_STREAMING, Method, Serializer
from handfast.client.options import DEFAULT_KEEPALIVE, Options
from handfast.client.replicas import Replicas
from handfast.client.security.given import security_of

if TYPE_CHECKING:
    from handfast.client.security.security import Security
    from handfast.client.security.tls import TLS
    from handfast.client.security.tokens import AsyncToken


def channel(
    address: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    tls: TLS | None = None,
    token: AsyncToken | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    interceptors: Sequence[aio.ClientInterceptor] = (),
    keepalive_seconds: float = DEFAULT_KEEPALIVE,
    tracing: bool = False,
) -> aio.Channel:
    """As `handfast.client.channel`; the function that gives tokens can be async. Belongs to the event loop that it is
    made in. Nothing but `async with` waits for look-ups: calls that are made before go by what is found by then."""
    check_address(address, setting="address")
    security = security_of(credentials, tls, token, may_be_async=True)
    return channel_class(WellBehaved, tracing)(
        address, security, check_timeout(timeout), interceptors, check_keepalive(keepalive_seconds)
    )


class WellBehaved(aio.Channel):
    """What `channel` returns."""

    def __init__(
        self,
        address: str,
        security: Security | grpc.ChannelCredentials | None,
        timeout: float,
        interceptors: Sequence[aio.ClientInterceptor],
        keepalive_s: float,
    ) -> None:
        name = server_name(address, security)
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()
        self._is_closed = False

        def open_channel(target: str, chosen: Options, repeats: bool) -> aio.Channel:
            return _grpc_channel(target, security, chosen, repeats, interceptors)

        self._replicas = Replicas(address)
        self._generations = Generations(
            lambda target: Generation(target, address, name, keepalive_s, open_channel), self._replicas.target
        )
        self._replicas.when_looked_up(self._move_soon)

    # `arguments` and `named` are the deserializer, and what generated code of some versions passes besides.

    def unary_unary(
        self, method: str, request_serializer: Serializer = None, *arguments: Any, **named: Any
    ) -> UnaryUnary:
        known = Method.find(method, self._timeout, request_serializer)
        return self._generations.add(
            UnaryUnary(known, lambda channel: channel.unary_unary(method, request_serializer, *arguments, **named))
        )

    def unary_stream(
        self, method: str, request_serializer: Serializer = None, *arguments: Any, **named: Any
    ) -> UnaryStream:
        known = Method.find(method, None, request_serializer)
        return self._generations.add(
            UnaryStream(known, lambda channel: channel.unary_stream(method, request_serializer, *arguments, **named))
        )

    def stream_unary(self, method: str, *arguments: Any, **named: Any) -> StreamUnary:
        return self._generations.add(
            StreamUnary(CLIENT_STREAMING, lambda channel: channel.stream_unary(method, *arguments, **named))
        )

    def stream_stream(self, method: str, *arguments: Any, **named: Any) -> StreamStream:
        return self._generations.add(
            StreamStream(CLIENT_STREAMING, lambda channel: channel.stream_stream(method, *arguments, **named))
        )

    def _move_soon(self) -> None:
        """In another thread: the address may stand for other servers now."""
        self._loop.call_soon_threadsafe(self._move)

    def _move(self) -> None:
        if not self._is_closed and self._generations.move(self._replicas.target):
            self._moved.set()
            self._moved = asyncio.Event()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._generations.present.retrying.get_state(try_to_connect)  # type: ignore[no-any-return]

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Ends as well where the address stands for other servers."""
        changing = asyncio.ensure_future(self._generations.present.retrying.wait_for_state_change(last_observed_state))
        moving = asyncio.ensure_future(self._moved.wait())
        try:
            await asyncio.wait((changing, moving), return_when=asyncio.FIRST_COMPLETED)
            if changing.done():
                await changing
        finally:
            changing.cancel()
            moving.cancel()

    async def channel_ready(self) -> None:
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)

    async def close(self, grace: float | None = None) -> None:
        self._replicas.close()
        self._is_closed = True
        await asyncio.gather(*(each.close(grace) for each in self._generations.channels()))

    async def __aenter__(self) -> WellBehaved:
        """Waits until names have been looked up, for 2 seconds at most."""
        if not self._replicas.looked_up.is_set():
            await asyncio.to_thread(self._replicas.wait)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _grpc_channel(
    address: str,
    security: Security | grpc.ChannelCredentials | None,
    chosen: Options,
    repeats: bool,
    interceptors: Sequence[aio.ClientInterceptor],
) -> aio.Channel:
    if security is None:
        return aio.insecure_channel(address, chosen, interceptors=interceptors)
    if isinstance(security, grpc.ChannelCredentials):
        return aio.secure_channel(address, security, chosen, interceptors=interceptors)
    from handfast.client.aio.secured import SecuredChannel

    return SecuredChannel(address, chosen, security, repeats, interceptors)
