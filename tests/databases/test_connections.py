"""Calls that wait for a database's answer leave connections to what else a server does."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from queue import SimpleQueue

import pytest
import sqlalchemy as sa

from handfast.server.chassis import DatabaseSettings, open_database
from handfast.server.chassis.data import database as databases
from handfast.server.chassis.data.database import Database
from handfast.server.process.settings import sqlite_url
from handfast.server.users.server import SCHEMA
from tests.databases.postgresql import PostgreSQL
from tests.eventually import PATIENCE


def test_all_threads_at_their_reads_leave_a_connection_to_metrics_and_background_work(
    database_urls: dict[str, str], tmp_path: Path
) -> None:
    url = database_urls.get("HANDFAST_USERS_DATABASE_URL", sqlite_url(tmp_path / "users.sqlite3"))
    settings = DatabaseSettings(name="users", listen="127.0.0.1:0", database_url=url, migrate=True, threads=3)
    database = open_database(settings, SCHEMA)
    with ExitStack() as stack:
        stack.callback(database.close)
        for _ in range(settings.threads + 1):  # one too many would wait, and fail in the end
            connection = stack.enter_context(database.read())
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1


def test_a_connection_is_kept_from_read_to_read_and_from_write_to_write(new_url: str) -> None:
    with closing(Database(new_url, connections=2)) as database:
        kept = []
        for _ in "123":
            with database.read() as connection:
                connection.execute(sa.text("SELECT 1")).one()
                kept.append(connection)
        assert len(set(map(id, kept))) == 1

        def work(connection: sa.Connection) -> sa.Connection:
            connection.execute(sa.text("SELECT 1")).one()
            return connection

        kept = [database.write(work) for _ in "123"]
        assert len(set(map(id, kept))) == 1


class Permits:
    """Those of kept connections. `asked` is set when somebody is about to take one."""

    def __init__(self, permits: SimpleQueue[None]) -> None:
        self._permits, self.asked = permits, threading.Event()
        self.put = permits.put

    def get(self, timeout: float) -> None:
        self.asked.set()
        self._permits.get(timeout=timeout)


def test_one_that_waits_for_a_connection_has_the_next_that_is_given_back_or_is_told_that_there_is_none(
    new_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Database(new_url, connections=1)) as database, ThreadPoolExecutor(1) as pool:

        def read() -> int:
            with database.read() as connection:
                return int(connection.execute(sa.text("SELECT 1")).scalar_one())

        with database.read():
            permits = Permits(database._kept._permits)
            monkeypatch.setattr(database._kept, "_permits", permits)
            waiting = pool.submit(read)
            assert permits.asked.wait(PATIENCE)
        assert waiting.result(PATIENCE) == 1
        monkeypatch.setattr(databases, "PATIENCE_S", 0.01)
        with database.read(), pytest.raises(sa.exc.TimeoutError):
            read()
        assert read() == 1


def test_where_one_connection_is_broken_all_that_are_idle_are_made_anew(
    server: PostgreSQL, empty_database: str
) -> None:
    session = sa.select(sa.func.pg_backend_pid())
    with closing(Database(server.url(empty_database), connections=3)) as database:
        with ExitStack() as stack:
            connections = [stack.enter_context(database.read()) for _ in range(3)]
            gone = {connection.execute(session).scalar_one() for connection in connections}
        server.execute(*(f"SELECT pg_terminate_backend({pid}, 5000)" for pid in gone))
        with pytest.raises(sa.exc.OperationalError), database.read() as connection:
            connection.execute(session)
        with ExitStack() as stack:
            connections = [stack.enter_context(database.read()) for _ in range(3)]
            assert gone.isdisjoint(connection.execute(session).scalar_one() for connection in connections)
