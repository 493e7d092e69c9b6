"""gRPC's asyncio channel with TLS and a token: as `handfast.client.security.channel`, with what asyncio has otherwise.

Interceptors are within the channel of gRPC here, and see each copy of a call. So that they do not see the token, calls
have it asked for where there are any.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any

import grpc
from grpc import aio

from handfast.client.options import Options
from handfast.client.security import tls
from handfast.client.security.channel import Attempt, Generations
from handfast.client.security.security import Security


class SecuredChannel(aio.Channel):
    """As `handfast.client.security.channel.SecuredChannel`."""

    def __init__(
        self,
        address: str,
        chosen: Options,
        security: Security,
        repeats: bool,
        interceptors: Sequence[aio.ClientInterceptor],
    ) -> None:
        self.security, self.repeats = security, repeats and security.can_change()
        self.is_shown = bool(interceptors)
        self.generations = Generations(
            lambda credentials: aio.secure_channel(address, credentials, chosen, interceptors=interceptors),
            address,
            security,
        )

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        return _UnaryUnary(self, lambda channel: channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return _Secured(self, lambda channel: channel.unary_stream(*arguments, **named))

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        return _Secured(self, lambda channel: channel.stream_unary(*arguments, **named))

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        return _Secured(self, lambda channel: channel.stream_stream(*arguments, **named))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.generations.present().channel.get_state(try_to_connect)  # type: ignore[no-any-return]

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Ends as well when files have changed, and with them the connection."""
        generation = self.generations.present()
        changing = asyncio.ensure_future(generation.channel.wait_for_state_change(last_observed_state))
        try:
            while not changing.done() and self.generations.present() is generation:
                await asyncio.wait([changing], timeout=tls.CHECK_SECONDS)
            if changing.done():
                await changing
        finally:
            changing.cancel()

    async def channel_ready(self) -> None:
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)

    async def close(self, grace: float | None = None) -> None:
        await asyncio.gather(*(each.close(grace) for each in self.generations.close()))

    async def __aenter__(self) -> SecuredChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Attempt(Attempt):
    def send(self, request: Any, timeout: float | None, named: dict[str, Any]) -> Any:
        carried = self.carried
        arguments = () if request is None else (request,)
        return self.method(
            *arguments, timeout=timeout, metadata=carried.metadata, credentials=carried.credentials, **named
        )

    def ended(self, call: Any) -> None:
        """For calls that are not made again."""

        async def ended() -> None:
            self.has_changed(await call.code())

        _in_background(ended())


class _Secured:
    """Makes calls that are not made again."""

    def __init__(self, channel: SecuredChannel, make: Callable[[aio.Channel], Any]) -> None:
        self._channel, self.make = channel, make

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        **named: Any,
    ) -> Any:
        attempt = _Attempt(self._channel, self, metadata, credentials)
        call = attempt.send(request, timeout, named)
        call.add_done_callback(attempt.ended)
        return call


class _UnaryUnary(_Secured):
    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        **named: Any,
    ) -> Any:
        if not self._channel.repeats:
            return super().__call__(request, timeout, metadata, credentials, **named)
        until_s = None if timeout is None else time.monotonic() + timeout

        def send() -> tuple[Any, Callable[[grpc.StatusCode], bool]]:
            left = None if until_s is None else until_s - time.monotonic()
            attempt = _Attempt(self._channel, self, metadata, credentials)
            return attempt.send(request, left, named), attempt.has_changed

        return _RepeatedCall(send)


class _RepeatedCall(aio.UnaryUnaryCall[Any, Any]):
    """As the call of gRPC that it stands for; it is made once more where it is refused for what has changed since."""

    _channel = None  # early versions of grpcio look for it in each call whose task runs as a channel is closed

    def __init__(self, send: Callable[[], tuple[Any, Callable[[grpc.StatusCode], bool]]]) -> None:
        self._send = send
        self._call, self._has_changed = send()
        self._is_settled = False
        """Whether no other copy will be sent."""
        self._settling: asyncio.Task[None] | None = None

    def _settle(self, call: Any, status: grpc.StatusCode) -> bool:
        """`call` ended with `status`. Returns whether it is this call's end; else there is another copy now."""
        if self._call is not call:
            return False
        if self._is_settled:
            return True
        self._is_settled = True
        if not self._has_changed(status):
            return True
        try:
            self._call, self._has_changed = self._send()
        except (aio.UsageError, ValueError):  # the channel is closed
            return True
        return False

    async def _settled(self) -> Any:
        """The copy whose end is that of the call."""
        while True:
            call = self._call
            if self._settle(call, await call.code()):
                return call

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        while True:
            call = self._call
            try:
                reply = await call
            except grpc.RpcError as error:
                if self._settle(call, error.code()):
                    raise
            else:
                self._is_settled = True
                return reply

    def done(self) -> bool:
        if not self._is_settled and self._call.done():
            self._settle_soon()
        return self._is_settled and self._call.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._settle_soon().add_done_callback(lambda _: callback(self))

    def _settle_soon(self) -> asyncio.Task[Any]:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(self._settled())
        return self._settling

    def cancel(self) -> bool:
        self._is_settled = True
        return self._call.cancel()  # type: ignore[no-any-return]

    def cancelled(self) -> bool:
        return self._call.cancelled()  # type: ignore[no-any-return]

    def time_remaining(self) -> float | None:
        return self._call.time_remaining()  # type: ignore[no-any-return]

    async def initial_metadata(self) -> aio.Metadata:
        return await (await self._settled()).initial_metadata()  # type: ignore[no-any-return]

    async def trailing_metadata(self) -> aio.Metadata:
        return await (await self._settled()).trailing_metadata()  # type: ignore[no-any-return]

    async def code(self) -> grpc.StatusCode:
        return await (await self._settled()).code()  # type: ignore[no-any-return]

    async def details(self) -> str:
        return await (await self._settled()).details()  # type: ignore[no-any-return]

    async def debug_error_string(self) -> str | None:
        return await (await self._settled()).debug_error_string()  # type: ignore[no-any-return]

    async def wait_for_connection(self) -> None:
        await self._call.wait_for_connection()


_BACKGROUND: set[asyncio.Task[Any]] = set()
"""asyncio itself does not hold its tasks."""


def _in_background(coroutine: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(coroutine)
    _BACKGROUND.add(task)
    task.add_done_callback(_BACKGROUND.discard)
