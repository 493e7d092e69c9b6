"""Calls that are under way, and made once more where they are refused for what has changed since."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeAlias

import grpc

Send: TypeAlias = Callable[[], tuple[Any, Callable[[grpc.StatusCode], bool]]]
"""Begins a copy of the call, and returns it with what says whether a call that ended with a status makes sense once
more. Raises ValueError where the channel is closed."""


class RepeatedCall(grpc.Call, grpc.Future):  # type: ignore[type-arg]  # generic in its stubs only
    """As the future of gRPC that it stands for."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._is_last = False
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        self._call, self._has_changed = self._send()
        self._call.add_done_callback(self._ended)

    def _ended(self, call: Any) -> None:
        """In a thread of gRPC."""
        with self._lock:
            if not self._is_last and self._has_changed(call.code()):
                self._is_last = True
                try:
                    self._begin()
                except ValueError:  # the channel is closed
                    pass
                else:
                    return
            self._over.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def _settled(self, timeout: float | None = None) -> Any:
        if not self._over.wait(timeout):
            raise grpc.FutureTimeoutError
        return self._call

    def cancel(self) -> bool:
        with self._lock:
            self._is_last = True
            call = self._call
        return call.cancel()  # type: ignore[no-any-return]

    def cancelled(self) -> bool:
        return self._call.cancelled()  # type: ignore[no-any-return]

    def running(self) -> bool:
        return not self.done()

    def done(self) -> bool:
        return self._over.is_set()

    def is_active(self) -> bool:
        return not self.done()

    def time_remaining(self) -> float:
        return self._call.time_remaining()  # type: ignore[no-any-return]

    def result(self, timeout: float | None = None) -> Any:
        return self._settled(timeout).result()

    def exception(self, timeout: float | None = None) -> Any:
        return self._settled(timeout).exception()

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        return self._settled(timeout).traceback()  # type: ignore[no-any-return]

    def code(self) -> grpc.StatusCode:
        return self._settled().code()  # type: ignore[no-any-return]

    def details(self) -> str:
        return self._settled().details()  # type: ignore[no-any-return]

    def initial_metadata(self) -> Any:
        return self._settled().initial_metadata()

    def trailing_metadata(self) -> Any:
        return self._settled().trailing_metadata()

    def debug_error_string(self) -> str | None:
        return self._settled().debug_error_string()  # type: ignore[no-any-return]

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if not self.done():
                self._callbacks.append(callback)
                return True
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if not self.add_callback(lambda: fn(self)):
            fn(self)


class RepeatedBegunCall:
    """As `handfast.client.begun_call.BegunCall`; `repeats` says whether it may be made once more."""

    def __init__(self, send: Send, repeats: bool) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._is_last = not repeats
        self._call, self._has_changed = send()

    def result(self) -> Any:
        try:
            return self._call.result()
        except grpc.RpcError as error:
            if not self._is_sent_again(error.code()):
                raise
        return self._call.result()

    def _is_sent_again(self, status: grpc.StatusCode) -> bool:
        has_changed = self._has_changed(status)
        with self._lock:
            if self._is_last or not has_changed:
                return False
            self._is_last = True
            try:
                self._call, self._has_changed = self._send()
            except ValueError:  # the channel is closed
                return False
            return True

    def cancel(self) -> None:
        with self._lock:
            self._is_last = True
            call = self._call
        call.cancel()

    def initial_metadata(self) -> Any:
        return self._call.initial_metadata()

    def trailing_metadata(self) -> Any:
        return self._call.trailing_metadata()
