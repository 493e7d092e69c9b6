"""Transactions that their callers leave open, without a word: they end by themselves, and nothing grows."""

from __future__ import annotations

import gc
import uuid
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from handfast.client import Suite, Transaction
from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesRequest
from handfast.server.process.settings import sqlite_url
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, User
from tests.cli.processes import Process
from tests.crashes.world import World, text
from tests.eventually import eventually

SERVICES = ("users", "preferences")
FIRST, THEN = 100, 300
"""How many are left open before memory is looked at, and then."""
TIMEOUT = 1.0
MOST_GROWTH = 4 * 2**20
"""Bytes by which a server may grow over those that come then. It is less than one MiB, and does not grow with them."""


class LeftOpen:
    """Leaves transactions open that create a user, lock what they look at, and change preferences."""

    def __init__(self, client: Suite) -> None:
        self.prefix = f"left-{uuid.uuid4().hex[:8]}"
        self.world = World(self.prefix)
        self.world.create(client)
        self.ids: list[str] = []
        self.kept = weakref.WeakSet[Transaction]()
        self._client = client

    def leave(self, count: int) -> None:
        numbers = range(len(self.ids), len(self.ids) + count)
        with ThreadPoolExecutor(8) as threads:
            self.ids += threads.map(self._leave_one, numbers)

    def _leave_one(self, number: int) -> str:
        tx = self._client.transaction(timeout=TIMEOUT)
        self.kept.add(tx)
        tx.__enter__()
        tx.users.GetUser(GetUserRequest(user_id=self.world.ids[0]))
        user_id = f"{self.prefix}-of-{number}"
        tx.users.CreateUser(CreateUserRequest(user=User(user_id=user_id, email=f"{user_id}@example.com")))
        preferences = Preferences(user_id=user_id, values={"own": text("left")})
        tx.preferences.UpdatePreferences(UpdatePreferencesRequest(preferences=preferences))
        return tx.id


@pytest.fixture
def engines(running: Process, database_urls: Mapping[str, str]) -> Iterator[dict[str, sa.Engine]]:
    data: Path = running.errors.parent / "data"
    engines = {}
    for name in SERVICES:
        url = database_urls.get(f"HANDFAST_{name.upper()}_DATABASE_URL", sqlite_url(data / f"{name}.sqlite3"))
        engines[name] = sa.create_engine(url)
    yield engines
    for engine in engines.values():
        engine.dispose()


def test_transactions_that_are_left_open_end_by_themselves_and_leave_nothing_behind(
    running: Process, engines: Mapping[str, sa.Engine]
) -> None:
    def count(service: str, statement: str) -> int:
        with engines[service].connect() as connection:
            return int(connection.execute(sa.text(statement)).scalar_one())

    def unfinished() -> int:
        return sum(count(name, "SELECT count(*) FROM branches WHERE state <> 'FINISHED'") for name in SERVICES)

    with running.connect() as client:
        left = LeftOpen(client)
        left.leave(FIRST)
        assert eventually(lambda: unfinished() == 0)
        before = _memory(running)
        left.leave(THEN)
        assert eventually(lambda: unfinished() == 0)
        growth = {name: bytes_ - before[name] for name, bytes_ in _memory(running).items()}
        print(growth)

        for name in SERVICES:
            assert count(name, "SELECT count(*) FROM operations") == 0
            table = name
            of_these = f"user_id LIKE '{left.prefix}-of-%'"
            assert count(name, f"SELECT count(*) FROM {table} WHERE {of_these}") == 0
            assert count(name, f"SELECT coalesce(sum(read_locks), 0) FROM {table}") == 0
        assert count("users", f"SELECT count(*) FROM claims WHERE value LIKE '{left.prefix}-of-%'") == 0
        request = pb.BatchGetTransactionsRequest(transaction_ids=left.ids[:100])
        found = client.transactions.BatchGetTransactions(request).transactions
        assert {each.state for each in found} == {pb.TRANSACTION_STATE_ABORTED}
        gc.collect()
        assert len(left.kept) == 0
        assert max(growth.values()) < MOST_GROWTH


def _memory(running: Process) -> dict[str, int]:
    """Of each server, in bytes."""
    pages = {name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for name, pid in running.servers().items()}
    return {name: each * 4096 for name, each in pages.items()}
