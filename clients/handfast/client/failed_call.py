"""A call that failed, as gRPC has it: the error of a call is the call, over and done with.

gRPC hands an interceptor the error in the place of the call, and the interceptor asks of it what it may ask of any
call. So it is a `grpc.Call` and a `grpc.Future`, as the errors are that gRPC raises itself.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

import grpc


class FailedCall(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg, misc]  # as its stubs have it
    """What is the same for all calls that failed."""

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False  # which says that it will not be called

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        raise self

    def exception(self, timeout: float | None = None) -> FailedCall:
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        try:
            raise self  # it may not have been raised yet
        except FailedCall:
            return self.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)


class NotSent(FailedCall):
    """A call that ended before it was sent, as `status`; where it `was_cancelled`, by its caller."""

    def __init__(self, status: grpc.StatusCode, details: str, was_cancelled: bool = False) -> None:
        super().__init__(details)
        self._status, self._details, self._was_cancelled = status, details, was_cancelled

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._details

    def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return ()

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:  # type: ignore[override]
        return ()

    def debug_error_string(self) -> str:
        return ""

    def cancelled(self) -> bool:
        return self._was_cancelled

    def result(self, timeout: float | None = None) -> NoReturn:
        raise grpc.FutureCancelledError if self._was_cancelled else self

    def exception(self, timeout: float | None = None) -> FailedCall:
        return self.result() if self._was_cancelled else self
