"""Replicas of a server, real ones on loopback, and clients that call them all the time."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import structlog

from handfast.client import TLS, aio, connect
from handfast.server.chassis.logs import log as logs
from handfast.server.chassis.server import Server
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse
from tests.chassis.conftest import new_server, new_users
from tests.eventually import PATIENCE, eventually

ADA = GetUserRequest(user_id="ada")


class Replica:
    """A server that counts the calls that come to it, and says that it is ready as long as `is_ready`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, **settings: Any) -> None:
        self.calls = 0
        self.is_ready = True
        self._settings = settings
        self._counting = threading.Lock()
        self._server = self._start(f"{host}:{port}")
        self.address, self.port = self._server.address, self._server.port

    def _start(self, listen: str) -> Server:
        logs.configure("users", "info", io.BytesIO())
        structlog.configure(cache_logger_on_first_use=False)  # or later tests could not capture what is logged
        servicer = new_users()
        servicer.behavior = self._answer
        server = new_server(servicer, listen=listen, checks=[self._check], grace=PATIENCE, **self._settings)
        server.start()
        return server

    def stop(self) -> None:
        """As it does when it is asked to."""
        self._server.stop()

    def start_again(self) -> None:
        self._server = self._start(self.address)

    def is_called_again(self) -> bool:
        before = self.calls
        return bool(eventually(lambda: self.calls > before))

    def is_called_no_more(self) -> bool:
        """Once calls that were under way have come."""
        return bool(eventually(lambda: self._rests_for(0.2)))

    def _rests_for(self, seconds: float) -> bool:
        before = self.calls
        threading.Event().wait(seconds)
        return self.calls == before

    def watchers(self) -> int:
        """How many clients watch its health."""
        return len(self._server._health._watchers)

    def _check(self) -> None:
        if not self.is_ready:
            raise ConnectionError("on purpose")

    def _answer(self, request: GetUserRequest, context: grpc.ServicerContext) -> GetUserResponse:
        with self._counting:
            self.calls += 1
        return GetUserResponse()


@dataclass
class Load:
    """What came of the calls that were made."""

    outcomes: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    def note(self, error: Exception | None = None) -> None:
        self.outcomes["ok" if error is None else f"{type(error).__name__}: {error}"] += 1


def call(load: Load, address: str, tls: TLS | None) -> None:
    with connect(users=address, tls=tls) as suite:
        users = suite.users
        while not load.over.is_set():
            try:
                for pending in [users.GetUser.future(ADA) for _ in range(4)]:
                    pending.result()
                users.GetUser(ADA)
            except Exception as error:
                load.note(error)
            else:
                load.note()


def call_asynchronously(load: Load, address: str, tls: TLS | None) -> None:
    async def calls() -> None:
        async with aio.connect(users=address, tls=tls) as suite:
            users = suite.users
            while not load.over.is_set():
                for outcome in await asyncio.gather(*(users.GetUser(ADA) for _ in range(4)), return_exceptions=True):
                    load.note(outcome if isinstance(outcome, Exception) else None)

    asyncio.run(calls())


@contextlib.contextmanager
def load_on(address: str, tls: TLS | None = None) -> Iterator[Load]:
    """A synchronous client and one of asyncio call all the time. Every call has to succeed."""
    load = Load()
    clients: tuple[Callable[[Load, str, TLS | None], None], ...] = (call, call_asynchronously)
    threads = [threading.Thread(target=each, args=(load, address, tls)) for each in clients]
    for each in threads:
        each.start()
    try:
        yield load
    finally:
        load.over.set()
        for each in threads:
            each.join()
    if set(load.outcomes) != {"ok"}:
        pytest.fail(f"Calls failed: {load.outcomes}")
