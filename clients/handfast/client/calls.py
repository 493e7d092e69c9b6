"""What the synchronous channel gives back for a call that is not over yet: gRPC's own, with typed errors.

Nothing here waits until it is asked to, so that calls started one after the other run side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc

from handfast.client.errors import ServiceError, service_error


class CallFuture(grpc.Call, grpc.Future):  # type: ignore[type-arg]  # generic in its stubs only
    """What `stub.Method.future(...)` gives: passes everything on to the call of gRPC, which waits where it has to.
    Its errors are made when they are asked for."""

    def __init__(self, call: Any, request_id: str, method: Any) -> None:
        """`method` is that of gRPC which made the call, and is held as long as this: see `Generation`."""
        self._call, self._made_by = call, method
        self._request_id = request_id
        self._error: ServiceError | None = None

    def code(self) -> grpc.StatusCode:
        return self._call.code()  # type: ignore[no-any-return]

    def details(self) -> str:
        return self._call.details()  # type: ignore[no-any-return]

    def initial_metadata(self) -> Any:
        return self._call.initial_metadata()

    def trailing_metadata(self) -> Any:
        return self._call.trailing_metadata()

    def is_active(self) -> bool:
        return self._call.is_active()  # type: ignore[no-any-return]

    def time_remaining(self) -> float:
        return self._call.time_remaining()  # type: ignore[no-any-return]

    def cancel(self) -> bool:
        return self._call.cancel()  # type: ignore[no-any-return]

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return self._call.add_callback(callback)  # type: ignore[no-any-return]

    def debug_error_string(self) -> str | None:
        return self._call.debug_error_string()  # type: ignore[no-any-return]

    def result(self, timeout: float | None = None) -> Any:
        """Waits `timeout` seconds, or as long as the call takes, for the response.

        Raises ServiceError, grpc.FutureTimeoutError, and after `cancel()` grpc.FutureCancelledError.
        """
        try:
            return self._call.result(timeout)
        except grpc.RpcError as error:
            raise self._typed(error) from error

    def exception(self, timeout: float | None = None) -> Exception | None:
        error = self._call.exception(timeout)
        return self._typed(error) if isinstance(error, grpc.RpcError) else error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        error = self.exception(timeout)
        return error.traceback() if isinstance(error, ServiceError) else self._call.traceback(timeout)

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        self._call.add_done_callback(lambda _: fn(self))

    def when_over(self, fn: Callable[[Any], None]) -> bool:
        """As `add_done_callback`, but `fn` gets gRPC's own call, and this one is not held until then. Returns False
        where nothing tells of the end, as some interceptors give back a generator."""
        tells = hasattr(self._call, "add_done_callback")
        if tells:
            self._call.add_done_callback(fn)
        return tells

    def cancelled(self) -> bool:
        return self._call.cancelled()  # type: ignore[no-any-return]

    def running(self) -> bool:
        return self._call.running()  # type: ignore[no-any-return]

    def done(self) -> bool:
        return self._call.done()  # type: ignore[no-any-return]

    def _typed(self, error: grpc.RpcError) -> ServiceError:
        if self._error is None:
            self._error = service_error(error, self._request_id)
            self._error.__cause__ = error
        return self._error

    def __del__(self) -> None:
        # Nobody has it any more. gRPC cancels a call then by itself, but not one that a callback of its end holds.
        if hasattr(self._call, "cancel"):
            self._call.cancel()


class CallIterator(CallFuture):
    """The responses of a stream; as a future, the end of the stream."""

    def __iter__(self) -> CallIterator:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise self._typed(error) from error
