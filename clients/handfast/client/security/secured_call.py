"""Calls that go out when there is a token for them, and once more where they are refused for what has changed since."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import grpc

from handfast.client.errors import service_error
from handfast.client.failed_call import NotSent
from handfast.client.security.tokens import Entry

Copy: TypeAlias = tuple[Any, Callable[[grpc.StatusCode], bool]]
"""A call that was begun, and what says of the status that it ends with whether it makes sense once more."""


class Copies(Protocol):
    """What sends the copies of one call."""

    def token(self) -> Entry | Future[Entry] | None:
        """What the next one carries, which may have to be waited for. Raises ValueError where the channel is closed."""

    def wait(self, asking: Future[Entry], given_up: Future[None] | None = None) -> Entry:
        """Raises NotSent, also where it was given up."""

    def send(self, token: Entry | None) -> Copy:
        """Raises ValueError where the channel is closed."""

    def seconds_left(self) -> float | None:
        """Until the deadline of the call; None where it has none."""


class SecuredCall(grpc.Call, grpc.Future):  # type: ignore[type-arg]  # generic in its stubs only
    """As the future of gRPC that it stands for, or the stream. `repeats` says whether it may be made once more."""

    _waiting: threading.Thread | None = None
    """For the token of the next copy."""
    _given_up: Future[None]
    """Ends that."""

    def __init__(self, copies: Copies, repeats: bool) -> None:
        self._copies, self._repeats = copies, repeats
        self._lock = threading.RLock()
        self._callbacks: list[Callable[[], None]] | None = []
        """Who is to be told of its end; None when they are."""
        self._call: Any = None
        """The last copy, or NotSent."""
        self._is_over = False
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        """The next copy. Does not wait. With the lock held."""
        token = self._copies.token()
        if isinstance(token, Future):
            self._given_up = Future()
            waiting = threading.Thread(target=self._wait, args=(token,), name="handfast-call", daemon=True)
            waiting.start()
            self._waiting = waiting
        else:
            self._send(token)

    def _send(self, token: Entry | None) -> None:
        self._call, self._has_changed = self._copies.send(token)
        self._waiting = None  # only now, as others look at it without the lock
        self._call.add_done_callback(self._ended)

    def _wait(self, asking: Future[Entry]) -> None:
        not_sent: NotSent | None = None
        try:
            token = self._copies.wait(asking, self._given_up)
        except NotSent as error:
            not_sent = error
        with self._lock:
            if self._given_up.done():
                return
            if not_sent is None:
                try:
                    self._send(token)
                except ValueError:  # as `wait` would have raised, had the channel been closed a little earlier
                    not_sent = NotSent(grpc.StatusCode.CANCELLED, "Channel closed!")
                else:
                    return
            self._end(self._call or not_sent)  # where it was sent before, that it was refused says more
        self._tell()

    def _end(self, call: Any) -> None:
        self._call, self._is_over, self._waiting = call, True, None

    def _ended(self, call: Any) -> None:
        """In a thread of gRPC."""
        if self._is_last(call):
            self._tell()

    def _is_last(self, call: Any) -> bool:
        """Whether with this copy, which has ended, all is over. Else there is another one by now, or will be."""
        with self._lock:
            if self._call is not call or self._waiting is not None:
                return False
            if not self._is_over:
                is_sent_again = self._has_changed(call.code()) and self._repeats
                self._repeats = False
                if is_sent_again:
                    with contextlib.suppress(ValueError):  # the channel is closed
                        self._begin()
                        return False
                self._is_over = True
            return True

    def _tell(self) -> None:
        with self._lock:
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback()

    def _sent(self, until_s: float | None = None) -> Any:
        """The last copy, which is waited for."""
        while (waiting := self._waiting) is not None:
            waiting.join(_left(until_s))
            if waiting.is_alive():
                raise grpc.FutureTimeoutError
        return self._call

    def _last(self, timeout: float | None = None) -> Any:
        with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
            self.result(timeout)
        return self._call

    def result(self, timeout: float | None = None) -> Any:
        until_s = None if timeout is None else time.monotonic() + timeout
        while True:
            call = self._sent(until_s)
            try:
                return call.result(_left(until_s))
            except grpc.RpcError:
                if self._is_last(call):
                    raise

    def exception(self, timeout: float | None = None) -> Any:
        return self._last(timeout).exception()

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        return self._last(timeout).traceback()  # type: ignore[no-any-return]

    def code(self) -> grpc.StatusCode:
        return self._last().code()  # type: ignore[no-any-return]

    def details(self) -> str:
        return self._last().details()  # type: ignore[no-any-return]

    def initial_metadata(self) -> Any:
        last = self._last() if self._repeats else self._sent()  # of a stream that goes on, too
        return last.initial_metadata()

    def trailing_metadata(self) -> Any:
        return self._last().trailing_metadata()

    def debug_error_string(self) -> str | None:
        return self._last().debug_error_string()  # type: ignore[no-any-return]

    def cancel(self) -> bool:
        with self._lock:
            self._repeats = False
            if self._waiting is None:
                return self._call.cancel()  # type: ignore[no-any-return]
            self._given_up.set_result(None)
            self._end(NotSent(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", was_cancelled=True))
        self._tell()
        return True

    def cancelled(self) -> bool:
        return self._waiting is None and self._call.cancelled()

    def running(self) -> bool:
        return not self.done()

    def done(self) -> bool:
        return self._is_over or (self._waiting is None and self._call.done() and self._is_last(self._call))

    def is_active(self) -> bool:
        return not self.done()

    def time_remaining(self) -> float | None:  # type: ignore[override]  # as gRPC has it, which has None for no deadline
        return self._copies.seconds_left()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.append(callback)
                return True
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if not self.add_callback(lambda: fn(self)):
            fn(self)

    def __iter__(self) -> SecuredCall:
        return self

    def __next__(self) -> Any:
        call = self._sent()
        if isinstance(call, NotSent):
            raise call
        return next(call)


class SecuredBegunCall:
    """As `handfast.client.begun_call.BegunCall`. Where it has to wait for its token, it goes out when that is there."""

    def __init__(self, copies: Copies, request_id: str, repeats: bool) -> None:
        self._copies, self._request_id, self._repeats = copies, request_id, repeats
        self._lock = threading.Lock()
        self._given_up: Future[None] = Future()
        self._call: Any = None
        token = copies.token()
        if isinstance(token, Future):
            self._asking = token
            token.add_done_callback(self._asked)
        else:
            self._send(token)

    def _send(self, token: Entry | None, refused: Any = None) -> None:
        """The first copy, or the one after that which was `refused`, unless it is sent already."""
        with self._lock:
            if self._given_up.done():
                raise grpc.FutureCancelledError
            if self._call is refused:
                self._call, self._has_changed = self._copies.send(token)

    def _asked(self, asking: Future[Entry]) -> None:
        """In the thread that has asked for the token."""
        if asking.exception() is None:
            with contextlib.suppress(ValueError, grpc.FutureCancelledError):  # which `result` raises
                self._send(asking.result())

    def result(self) -> Any:
        try:
            if self._call is None:
                self._send(self._copies.wait(self._asking, self._given_up))
            return self._call.result()
        except NotSent as error:
            if error.cancelled():
                raise grpc.FutureCancelledError from None
            raise service_error(error, self._request_id) from error
        except grpc.RpcError as error:
            if not self._is_sent_again(error.code()):
                raise
        return self._call.result()

    def _is_sent_again(self, status: grpc.StatusCode) -> bool:
        if not self._has_changed(status) or not self._repeats:
            return False
        self._repeats = False
        try:
            token = self._copies.token()
            if isinstance(token, Future):
                token = self._copies.wait(token, self._given_up)
            self._send(token, refused=self._call)
        except (NotSent, ValueError):  # there is no other token, or the channel is closed
            return False
        return True

    def cancel(self) -> None:
        with self._lock:
            if not self._given_up.done():
                self._given_up.set_result(None)
            call = self._call
        if call is not None:
            call.cancel()

    def initial_metadata(self) -> Any:
        return () if self._call is None else self._call.initial_metadata()

    def trailing_metadata(self) -> Any:
        return () if self._call is None else self._call.trailing_metadata()


def _left(until_s: float | None) -> float | None:
    return None if until_s is None else max(0.0, until_s - time.monotonic())
