"""The synchronous client and the one for asyncio behind one face, so that a test is written once, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

from handfast.client import Suite, Transaction, aio, connect

Scenario = Callable[[Any], Coroutine[Any, Any, None]]
"""What a test does with a suite for asyncio, or with what behaves like one."""


class Synchronous:
    """Runs scenarios on the synchronous client. Calls are begun where they are made, and waited for where they are
    awaited."""

    def run(self, scenario: Scenario, **connection: Any) -> None:
        with connect(**connection) as suite:
            _finish(scenario(_Suite(suite)))


class Asyncio:
    def run(self, scenario: Scenario, **connection: Any) -> None:
        async def run() -> None:
            async with aio.connect(**connection) as suite:
                await scenario(suite)

        asyncio.run(run())


Face = Synchronous | Asyncio


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Nothing in it has to be waited for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("something was awaited that is no call")


class _Awaited:
    def __init__(self, get: Callable[[], Any]) -> None:
        self._get = get

    def __await__(self) -> Generator[Any, None, Any]:
        return self._get()
        yield  # which makes it a generator


class _Stub:
    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        return lambda *given, **named: _Awaited(method.future(*given, **named).result)


class _Transaction:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._transaction, name)
        return _Stub(found) if name in ("users", "preferences") else found

    def stub(self, stub_class: Any, participant: str) -> _Stub:
        return _Stub(self._transaction.stub(stub_class, participant))

    async def rollback(self) -> None:
        self._transaction.rollback()


class _Suite:
    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self.users, self.preferences, self.transactions = (
            _Stub(each) for each in (suite.users, suite.preferences, suite.transactions)
        )

    @contextlib.asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[_Transaction]:
        with self._suite.transaction(**options) as tx:
            yield _Transaction(tx)

    async def transact(self, function: Callable[[Any], Coroutine[Any, Any, Any]], **options: Any) -> Any:
        return self._suite.transact(lambda tx: _finish(function(_Transaction(tx))), **options)

    def stub(self, stub_class: Any, service: str) -> _Stub:
        return _Stub(self._suite.stub(stub_class, service))

    async def close(self) -> None:
        self._suite.close()
