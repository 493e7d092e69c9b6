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
from handfast.client.arguments import check_credentials, check_timeout
from handfast.client.channel import DEFAULT_TIMEOUT
from handfast.client.methods import CLIENT_STREAMING, Method, Serializer


def channel(
    address: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    interceptors: Sequence[aio.ClientInterceptor] = (),
) -> aio.Channel:
    """As `handfast.client.channel`. Belongs to the event loop that it is made in."""
    return _Channel(
        check_address(address, setting="address"), check_credentials(credentials), check_timeout(timeout), interceptors
    )


class _Channel(aio.Channel):
    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None,
        timeout: float,
        interceptors: Sequence[aio.ClientInterceptor],
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

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._retrying.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._retrying.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._retrying.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await asyncio.gather(self._retrying.close(grace), self._plain.close(grace))

    async def __aenter__(self) -> _Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _grpc_channel(
    address: str,
    credentials: grpc.ChannelCredentials | None,
    chosen: options.Options,
    interceptors: Sequence[aio.ClientInterceptor],
) -> aio.Channel:
    if credentials is None:
        return aio.insecure_channel(address, chosen, interceptors=interceptors)
    return aio.secure_channel(address, credentials, chosen, interceptors=interceptors)
