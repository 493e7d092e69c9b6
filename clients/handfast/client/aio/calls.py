"""What a call on the asyncio channel gives back: gRPC's own, with typed errors where it is awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import grpc
from grpc import aio

from handfast.client.errors import service_error


class _Call(aio.Call):
    """Passes everything on to the call of gRPC."""

    def __init__(self, call: Any, request_id: str, method: Any) -> None:
        """`method` is that of gRPC which made the call, and is held as long as this: see `Generation`."""
        self._call, self._made_by = call, method
        self._request_id = request_id

    def cancelled(self) -> bool:
        return self._call.cancelled()  # type: ignore[no-any-return]

    def done(self) -> bool:
        return self._call.done()  # type: ignore[no-any-return]

    def time_remaining(self) -> float | None:
        return self._call.time_remaining()  # type: ignore[no-any-return]

    def cancel(self) -> bool:
        return self._call.cancel()  # type: ignore[no-any-return]

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(lambda _: callback(self))

    def when_over(self, callback: Callable[[Any], None]) -> bool:
        """As `add_done_callback`, but `callback` gets gRPC's own call, and this one is not held until then."""
        self._call.add_done_callback(callback)
        return True

    async def initial_metadata(self) -> aio.Metadata:
        return await self._call.initial_metadata()  # type: ignore[no-any-return]

    async def trailing_metadata(self) -> aio.Metadata:
        return await self._call.trailing_metadata()  # type: ignore[no-any-return]

    async def code(self) -> grpc.StatusCode:
        return await self._call.code()  # type: ignore[no-any-return]

    async def details(self) -> str:
        return await self._call.details()  # type: ignore[no-any-return]

    async def debug_error_string(self) -> str | None:
        return await self._call.debug_error_string()  # type: ignore[no-any-return]

    async def wait_for_connection(self) -> None:
        try:
            await self._call.wait_for_connection()
        except grpc.RpcError as error:
            raise service_error(error, self._request_id) from error


class _StreamRequest(_Call):
    async def write(self, request: Any) -> None:
        try:
            await self._call.write(request)
        except grpc.RpcError as error:
            raise service_error(error, self._request_id) from error

    async def done_writing(self) -> None:
        await self._call.done_writing()


class _UnaryResponse(_Call):
    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except grpc.RpcError as error:
            raise service_error(error, self._request_id) from error


class _StreamResponse(_Call):
    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for response in self._call:
                yield response
        except grpc.RpcError as error:
            raise service_error(error, self._request_id) from error

    async def read(self) -> Any:
        try:
            return await self._call.read()
        except grpc.RpcError as error:
            raise service_error(error, self._request_id) from error

    def __del__(self) -> None:
        # Nobody has it any more. gRPC holds a stream by a task of its own until that is over.
        self._call.cancel()


class UnaryUnaryCall(_UnaryResponse, aio.UnaryUnaryCall[Any, Any]):
    pass


class UnaryStreamCall(_StreamResponse, aio.UnaryStreamCall[Any, Any]):
    pass


class StreamUnaryCall(_StreamRequest, _UnaryResponse, aio.StreamUnaryCall[Any, Any]):
    pass


class StreamStreamCall(_StreamRequest, _StreamResponse, aio.StreamStreamCall[Any, Any]):
    pass
