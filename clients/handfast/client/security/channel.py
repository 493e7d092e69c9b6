"""gRPC's synchronous channel with TLS and a token, beneath interceptors and all that this package does to a call.

It is a channel around a channel of gRPC, which is replaced when the files of certificates change. The calls in flight
hold the old one; when the last of them is over nobody does, and then gRPC closes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

import grpc

from handfast.client.begun_call import BegunCall
from handfast.client.closing import Gate
from handfast.client.failed_call import NotSent
from handfast.client.methods import Outgoing
from handfast.client.options import Options
from handfast.client.security.secured_call import Copy, SecuredBegunCall, SecuredCall
from handfast.client.security.security import Metadata, Security, answer
from handfast.client.security.tokens import Entry

Watcher: TypeAlias = Callable[[grpc.ChannelConnectivity], None]


class Generation:
    """A channel of gRPC, with the `credentials` that it was made of, and what it has for each method called on it."""

    def __init__(self, channel: Any, credentials: grpc.ChannelCredentials) -> None:
        self.channel, self.credentials = channel, credentials
        self._methods: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def method(self, secured: Any) -> Any:
        found = self._methods.get(secured)
        if found is None:
            found = self._methods[secured] = secured.make(self.channel)
        return found


class Generations:
    """The present one and, while calls are in flight on them, those before it. Usable from any thread."""

    def __init__(self, open_channel: Callable[[grpc.ChannelCredentials], Any], address: str, security: Security):
        self._open_channel = open_channel
        self._credentials = security.credentials_for(address)
        self._renewing = threading.RLock()  # taken again where the end of an object unsubscribes what it has
        self._is_closed = False
        credentials = self._credentials()
        self._present = Generation(open_channel(credentials), credentials)
        self._alive = WeakSet({self._present})
        self._watchers: list[tuple[Watcher, bool]] = []
        """Of the connectivity, each with whether it has the channel connect. They move on to the next generation."""

    def present(self) -> Generation:
        present = self._present
        if present.credentials is self._credentials():
            return present
        with self._renewing:
            credentials = self._credentials()
            if self._present.credentials is not credentials and not self._is_closed:
                before, self._present = self._present, Generation(self._open_channel(credentials), credentials)
                self._alive.add(self._present)
                for watcher, try_to_connect in tuple(self._watchers):
                    before.channel.unsubscribe(watcher)
                    self._present.channel.subscribe(watcher, try_to_connect)
            return self._present

    def watch(self, watcher: Watcher, try_to_connect: bool) -> None:
        """For synchronous channels, as `unwatch` is."""
        with self._renewing:
            self.present().channel.subscribe(watcher, try_to_connect)
            self._watchers.append((watcher, try_to_connect))

    def unwatch(self, watcher: Watcher) -> None:
        with self._renewing:
            self._watchers = [each for each in self._watchers if each[0] != watcher]
            self._present.channel.unsubscribe(watcher)

    def close(self) -> list[Any]:
        """Returns the channels that are to be closed; from now on there is no other."""
        with self._renewing:
            self._is_closed = True
            return [each.channel for each in self._alive]


class SecuredChannel(grpc.Channel):
    """`repeats` says whether its calls may be made again, as UNAVAILABLE is tried again on it."""

    def __init__(self, address: str, chosen: Options, security: Security, repeats: bool) -> None:
        self.security, self.repeats = security, repeats and security.can_change()
        self._gate = Gate()
        self.closed: Future[None] = Future()
        """For who waits for a token meanwhile."""
        self.generations = Generations(
            lambda credentials: grpc.secure_channel(address, credentials, chosen), address, security
        )

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        return _UnaryUnary(self, self._guarded(lambda channel: channel.unary_unary(*arguments, **named)))

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return _UnaryStream(self, self._guarded(lambda channel: channel.unary_stream(*arguments, **named)))

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        return _StreamUnary(self, self._guarded(lambda channel: channel.stream_unary(*arguments, **named)))

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        return _StreamStream(self, self._guarded(lambda channel: channel.stream_stream(*arguments, **named)))

    def subscribe(self, callback: Watcher, try_to_connect: bool = False) -> None:
        """The callback moves on to a new connection when a call does."""
        self.generations.watch(callback, try_to_connect)

    def unsubscribe(self, callback: Watcher) -> None:
        self.generations.unwatch(callback)

    def close(self) -> None:
        self._gate.close(self._close)

    def _close(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        for each in self.generations.close():
            each.close()

    def _guarded(self, make: Callable[[grpc.Channel], Any]) -> Callable[[grpc.Channel], Any]:
        """A method is made when it is first called, on each generation, which can be after the channel is closed."""

        def make_if_open(channel: grpc.Channel) -> Any:
            with self._gate.open():
                return make(channel)

        return make_if_open

    def __enter__(self) -> SecuredChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Attempt:
    """One copy of a call, which holds what it goes out on. `channel` is a SecuredChannel, or that of asyncio."""

    def __init__(self, channel: Any, secured: Any, metadata: Metadata, token: Entry | None) -> None:
        self._security: Security = channel.security
        self._token = token
        self.metadata = metadata if token is None else (*metadata, token)
        self._generation: Generation = channel.generations.present()
        self.method = self._generation.method(secured)

    def has_changed(self, status: grpc.StatusCode) -> bool:
        return self._security.has_changed(status, self._token, self._generation.credentials)


class _Copies:
    """Of one call, each made by `send` on an attempt, with the seconds that it has."""

    def __init__(
        self,
        secured: _Secured,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        send: Callable[[Attempt, float | None], Any],
    ) -> None:
        self._secured, self._channel = secured, secured.channel
        self._metadata = self._channel.security.given(metadata, credentials)
        self._until_s = None if timeout is None else time.monotonic() + timeout
        self._send = send

    def token(self) -> Entry | Future[Entry] | None:
        if self._channel.closed.done():
            raise ValueError("Cannot invoke RPC on closed channel!")  # as gRPC says
        return self._channel.security.token()

    def wait(self, asking: Future[Entry], given_up: Future[None] | None = None) -> Entry:
        closed: Future[Any] = self._channel.closed
        wait({asking, closed, given_up or closed}, self.seconds_left(), FIRST_COMPLETED)
        if given_up is not None and given_up.done():
            raise NotSent(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", was_cancelled=True)
        if not asking.done() and closed.done():
            raise NotSent(grpc.StatusCode.CANCELLED, "Channel closed!")
        return answer(asking)

    def attempt(self, token: Entry | Future[Entry] | None) -> Attempt:
        if isinstance(token, Future):
            token = self.wait(token)
        return Attempt(self._channel, self._secured, self._metadata, token)

    def send(self, token: Entry | None) -> Copy:
        attempt = self.attempt(token)
        return self._send(attempt, self.seconds_left()), attempt.has_changed

    def send_and_wait(self) -> Any:
        attempt = self.attempt(self.token())
        try:
            return self._send(attempt, self.seconds_left())
        except grpc.RpcError as error:
            if not attempt.has_changed(error.code()) or not self._channel.repeats:
                raise
            try:
                attempt = self.attempt(self.token())
            except NotSent as not_sent:
                raise error from not_sent
        return self._send(attempt, self.seconds_left())

    def seconds_left(self) -> float | None:
        return None if self._until_s is None else max(0.0, self._until_s - time.monotonic())


class _Secured:
    def __init__(self, channel: SecuredChannel, make: Callable[[grpc.Channel], Any]) -> None:
        self.channel, self.make = channel, make

    def _copies(
        self,
        how: str,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        **more: Any,
    ) -> _Copies:
        """`more` are `wait_for_ready` and `compression`."""

        def send(attempt: Attempt, seconds: float | None) -> Any:
            return getattr(attempt.method, how)(request, seconds, attempt.metadata, credentials, **more)

        return _Copies(self, timeout, metadata, credentials, send)


class _UnaryResponse(_Secured):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._copies("__call__", *arguments, **named).send_and_wait()

    def with_call(self, *arguments: Any, **named: Any) -> Any:
        return self._copies("with_call", *arguments, **named).send_and_wait()

    def future(self, *arguments: Any, **named: Any) -> SecuredCall:
        return SecuredCall(self._copies("future", *arguments, **named), self.channel.repeats)


class _StreamResponse(_Secured):
    def __call__(self, *arguments: Any, **named: Any) -> SecuredCall:
        return SecuredCall(self._copies("__call__", *arguments, **named), repeats=False)


class _UnaryUnary(_UnaryResponse, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg, misc]
    def begin(self, outgoing: Outgoing) -> SecuredBegunCall:
        """As a BegunCall, and raises as it does."""

        def send(attempt: Attempt, seconds: float | None) -> BegunCall:
            return BegunCall(attempt.method, outgoing._replace(timeout=seconds, metadata=attempt.metadata))

        copies = _Copies(self, outgoing.timeout, outgoing.metadata, None, send)
        return SecuredBegunCall(copies, outgoing.request_id, self.channel.repeats)


class _StreamUnary(_UnaryResponse, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg, misc]
    pass


class _UnaryStream(_StreamResponse, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg, misc]
    pass


class _StreamStream(_StreamResponse, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg, misc]
    pass
