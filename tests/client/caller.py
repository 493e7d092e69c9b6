"""Calls in each of the ways that a stub has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from handfast.client import aio, channel
from handfast.users.v1.users_pb2_grpc import UserServiceStub

from .backend import WITHOUT_CONTRACT

WAYS = ("blocking", "with_call", "future", "begun", "asyncio")


class Caller:
    """Calls by one channel, in one of the ways that a stub has."""

    def __init__(self, way: str, address: str, **options: Any) -> None:
        self._way = way
        self._loop = asyncio.new_event_loop() if way == "asyncio" else None
        if self._loop is None:
            self.channel: Any = channel(address, **options)
        else:
            self.channel = self._run(self._open(address, options))

    def __call__(self, method: str, request: Any, **named: Any) -> Any:
        stub: Any = UserServiceStub(self.channel)
        found = getattr(stub, method, None) or self.channel.unary_unary(f"{WITHOUT_CONTRACT}/{method}")
        match self._way:
            case "blocking":
                return found(request, **named)
            case "with_call":
                return found.with_call(request, **named)[0]
            case "future":
                return found.future(request, **named).result()
            case "begun":
                return found.begin(request, **named).result()
            case _:
                return self._run(self._await(found, request, named))

    async def _open(self, address: str, options: dict[str, Any]) -> Any:
        return aio.channel(address, **options)

    async def _await(self, method: Any, request: Any, named: dict[str, Any]) -> Any:
        return await method(request, **named)

    def _run(self, coroutine: Any) -> Any:
        assert self._loop is not None
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        if self._loop is None:
            self.channel.close()
        else:
            self._run(self.channel.close())
            self._loop.close()


Opener = Callable[..., Caller]
