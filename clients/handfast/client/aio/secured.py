"""gRPC's asyncio channel with TLS and a token: as `handfast.client.security.channel`, with what asyncio has otherwise.

Interceptors are within the channel of gRPC here, and see each copy of a call. So that they do not see the token, it is
added by one beneath them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import grpc
from grpc import aio

from handfast.client.failed_call import NotSent
from handfast.client.options import Options
from handfast.client.security import tls
from handfast.client.security.channel import Attempt, Generations
from handfast.client.security.secured_call import Copy
from handfast.client.security.security import Security, answer
from handfast.client.security.tokens import Entry, NoToken

_TOKEN: ContextVar[Entry | None] = ContextVar("handfast_token")
"""Of the call that is being begun, for what is beneath interceptors."""
_KINDS: dict[str, Any] = {
    "unary_unary": aio.UnaryUnaryClientInterceptor,
    "unary_stream": aio.UnaryStreamClientInterceptor,
    "stream_unary": aio.StreamUnaryClientInterceptor,
    "stream_stream": aio.StreamStreamClientInterceptor,
}


async def _with_token(_: Any, continuation: Any, details: Any, request: Any) -> Any:
    """An interceptor's method. Interceptors may run it in a task of theirs, which has the context of the call."""
    token = _TOKEN.get()
    metadata = aio.Metadata(*(details.metadata or ()), *(() if token is None else (token,)))
    return await continuation(
        aio.ClientCallDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready),
        request,
    )


def _beneath(kind: str) -> aio.ClientInterceptor:
    return type("_Beneath", (_KINDS[kind],), {f"intercept_{kind}": _with_token})()  # type: ignore[no-any-return]


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
        self.waiting: set[_SecuredCall] = set()
        """The calls that wait for their token."""
        self._is_closed = False
        self.seen = {kind for kind, base in _KINDS.items() if any(isinstance(each, base) for each in interceptors)}
        """The kinds of calls that interceptors see."""
        all_interceptors = (*interceptors, *map(_beneath, self.seen))
        self.generations = Generations(
            lambda credentials: aio.secure_channel(address, credentials, chosen, interceptors=all_interceptors),
            address,
            security,
        )

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        return _Secured(self, "unary_unary", arguments, named)

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return _Secured(self, "unary_stream", arguments, named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        return _Secured(self, "stream_unary", arguments, named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        return _Secured(self, "stream_stream", arguments, named)

    def token(self) -> Entry | Future[Entry] | None:
        """As `handfast.client.security.security.Security.token`. Raises UsageError where the channel is closed."""
        if self._is_closed:
            raise aio.UsageError("Channel is closed.")
        return self.security.token()

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
        self._is_closed = True
        for each in tuple(self.waiting):
            each.cancel()
        await asyncio.gather(*(each.close(grace) for each in self.generations.close()))

    async def __aenter__(self) -> SecuredChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Secured:
    def __init__(self, channel: SecuredChannel, kind: str, arguments: Any, named: Any) -> None:
        self._channel, self._kind, self._arguments, self._named = channel, kind, arguments, named
        self._is_seen = kind in channel.seen

    def make(self, channel: aio.Channel) -> Any:
        return getattr(channel, self._kind)(*self._arguments, **self._named)

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        **named: Any,
    ) -> Any:
        channel = self._channel
        given = channel.security.given(metadata, credentials)
        until_s = None if timeout is None else time.monotonic() + timeout
        arguments = () if request is None else (request,)

        def send(token: Entry | None) -> Copy:
            attempt = Attempt(channel, self, given, token)
            carried = given if self._is_seen else attempt.metadata
            before = _TOKEN.set(token)
            try:
                call = attempt.method(
                    *arguments, timeout=_left(until_s), metadata=carried, credentials=credentials, **named
                )
            finally:
                _TOKEN.reset(before)
            return call, attempt.has_changed

        return _SecuredCall(channel, send, until_s, channel.repeats and self._kind == "unary_unary")


class _SecuredCall:
    """As the call of gRPC that it stands for, of any kind. It goes out when there is a token for it, and once more
    where it is refused for what has changed since, if it may be: if it `repeats`."""

    def __init__(
        self, channel: SecuredChannel, send: Callable[[Entry | None], Copy], until_s: float | None, repeats: bool
    ) -> None:
        self._secured, self._send, self._until_s = channel, send, until_s
        self._is_settled = not repeats
        """Whether no other copy will be sent, but for one that is waiting."""
        self._call: Any = None
        """The last copy, or NotSent."""
        self._waiting: asyncio.Task[None] | None = None
        """For the token of the next copy."""
        self._settling: asyncio.Task[Any] | None = None
        self._begin()

    def _begin(self) -> None:
        token = self._secured.token()
        if isinstance(token, Future):
            self._waiting = asyncio.get_running_loop().create_task(self._wait(token))
            self._secured.waiting.add(self)
            self._waiting.add_done_callback(lambda _: self._secured.waiting.discard(self))
        else:
            self._call, self._has_changed = self._send(token)

    async def _wait(self, asking: Future[Entry]) -> None:
        with contextlib.suppress(TimeoutError, NoToken):
            await asyncio.wait_for(asyncio.wrap_future(asking), _left(self._until_s))
        try:
            self._call, self._has_changed = self._send(answer(asking))
        except NotSent as error:
            self._call = self._call or error  # where it was sent before, that it was refused says more

    def _is_last(self, call: Any, status: grpc.StatusCode) -> bool:
        """`call` ended with `status`. Returns whether all is over; else there is another copy, or will be."""
        if self._call is not call or self._is_waiting():
            return False
        if not self._has_changed(status) or self._is_settled:
            self._is_settled = True
            return True
        self._is_settled = True
        try:
            self._begin()
        except (aio.UsageError, ValueError):  # the channel is closed
            return True
        return False

    def _is_waiting(self) -> bool:
        return self._waiting is not None and not self._waiting.done()

    async def _sent(self) -> Any:
        """The last copy, or NotSent."""
        while self._waiting is not None and not self._waiting.done():
            await asyncio.wait([self._waiting])
        if self._call is None:  # the event loop has cancelled all tasks
            self._call = _cancelled()
        return self._call

    async def _sent_or_raise(self) -> Any:
        call = await self._sent()
        if isinstance(call, NotSent):
            raise asyncio.CancelledError if call.cancelled() else call
        return call

    async def _last(self) -> Any:
        """The copy whose end is that of the call, or NotSent."""
        while True:
            call = await self._sent()
            if isinstance(call, NotSent) or self._is_last(call, await call.code()):
                return call

    async def _result(self) -> Any:
        while True:
            try:
                call = await self._sent_or_raise()
            except asyncio.CancelledError:
                self.cancel()
                raise
            try:
                reply = await call
            except grpc.RpcError as error:
                if self._is_last(call, error.code()):
                    raise
            else:
                self._is_settled = True
                return reply

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        call = await self._sent_or_raise()
        try:
            async for response in call:
                yield response
        except grpc.RpcError as error:
            self._is_last(call, error.code())
            raise

    async def read(self) -> Any:
        call = await self._sent_or_raise()
        try:
            return await call.read()
        except grpc.RpcError as error:
            self._is_last(call, error.code())
            raise

    async def write(self, request: Any) -> None:
        await (await self._sent_or_raise()).write(request)

    async def done_writing(self) -> None:
        await (await self._sent_or_raise()).done_writing()

    async def wait_for_connection(self) -> None:
        await (await self._sent_or_raise()).wait_for_connection()

    def done(self) -> bool:
        if self._is_waiting() or self._call is None or not self._call.done():
            return False
        if not self._is_settled:
            self._settle_soon()
        return self._is_settled

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._settle_soon().add_done_callback(lambda _: callback(self))

    def _settle_soon(self) -> asyncio.Task[Any]:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(self._last())
        return self._settling

    def cancel(self) -> bool:
        self._is_settled = True
        if not self._is_waiting():
            return self._call is not None and self._call.cancel()
        self._call = _cancelled()
        return self._waiting.cancel()  # type: ignore[union-attr]

    def cancelled(self) -> bool:
        return self._call is not None and self._call.cancelled()

    def time_remaining(self) -> float | None:
        return _left(self._until_s)

    async def initial_metadata(self) -> aio.Metadata:
        return await _told(await (self._sent() if self._is_settled else self._last()), "initial_metadata")  # type: ignore[no-any-return]

    async def trailing_metadata(self) -> aio.Metadata:
        return await _told(await self._last(), "trailing_metadata")  # type: ignore[no-any-return]

    async def code(self) -> grpc.StatusCode:
        return await _told(await self._last(), "code")  # type: ignore[no-any-return]

    async def details(self) -> str:
        return await _told(await self._last(), "details")  # type: ignore[no-any-return]

    async def debug_error_string(self) -> str | None:
        return await _told(await self._last(), "debug_error_string")  # type: ignore[no-any-return]


async def _told(call: Any, what: str) -> Any:
    told = getattr(call, what)()
    return told if isinstance(call, NotSent) else await told


def _cancelled() -> NotSent:
    return NotSent(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", was_cancelled=True)


def _left(until_s: float | None) -> float | None:
    return None if until_s is None else max(0.0, until_s - time.monotonic())
