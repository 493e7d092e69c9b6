"""The asyncio channel: a `grpc.aio.Channel` on which any generated stub behaves well."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc import aio

from handfast.client import options
from handfast.client.addresses import check_address
from handfast.client.aio.multicallables import StreamStream, StreamUnary, UnaryStream, UnaryUnary
from handfast.client.arguments import check_timeout
from handfast.client.channel import DEFAULT_TIMEOUT
from handfast.client.methods import CLIENT_STREAMING, Method, Serializer
from handfast.client.security.security import Security, security_of
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
) -> aio.Channel:
    """As `handfast.client.channel`; the function that gives tokens can be async. Belongs to the event loop that it is
    made in."""
    check_address(address, setting="address")
    return WellBehaved(
        address, security_of(credentials, tls, token, may_be_async=True), check_timeout(timeout), interceptors
    )


class WellBehaved(aio.Channel):
    """What `channel` returns."""

    def __init__(
        self,
        address: str,
        security: Security | grpc.ChannelCredentials | None,
        timeout: float,
        interceptors: Sequence[aio.ClientInterceptor],
    ) -> None:
        self._retrying = _grpc_channel(address, security, options.retrying(address), True, interceptors)
        self._plain = _grpc_channel(address, security, options.plain(address), False, interceptors)
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

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._retrying.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._retrying.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._retrying.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await asyncio.gather(self._retrying.close(grace), self._plain.close(grace))

    async def __aenter__(self) -> WellBehaved:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _grpc_channel(
    address: str,
    security: Security | grpc.ChannelCredentials | None,
    chosen: options.Options,
    repeats: bool,
    interceptors: Sequence[aio.ClientInterceptor],
) -> aio.Channel:
    if security is None:
        return aio.insecure_channel(address, chosen, interceptors=interceptors)
    if isinstance(security, grpc.ChannelCredentials):
        return aio.secure_channel(address, security, chosen, interceptors=interceptors)
    from handfast.client.aio.secured import SecuredChannel

    return SecuredChannel(address, chosen, security, repeats, interceptors)
