"""A PostgreSQL whose commits wait for a standby, as far as tests need one: there is none, so they wait until it is said
that they need not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import sqlalchemy as sa

from tests.databases.postgresql import PostgreSQL
from tests.eventually import eventually


@contextmanager
def said(server: PostgreSQL, setting: str, value: str) -> Iterator[None]:
    """The server has this setting meanwhile, in all its sessions that do not have one of their own."""
    server.execute(f"ALTER SYSTEM SET {setting} = '{value}'", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        server.execute(f"ALTER SYSTEM RESET {setting}", "SELECT pg_reload_conf()")


def waiting_for_standby(server: PostgreSQL) -> list[int]:
    """Sessions that wait for a standby, in COMMIT."""
    engine = sa.create_engine(server.url("postgres"))
    with closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        return [pid for (pid,) in cursor.fetchall()]


@contextmanager
def no_standby(server: PostgreSQL) -> Iterator[None]:
    """Each commit waits for a standby that does not exist. The server is told, and does so a moment later."""
    with said(server, "synchronous_standby_names", "nowhere"), ThreadPoolExecutor(1) as pool:
        while True:
            commit = pool.submit(server.execute, "SELECT pg_logical_emit_message(true, 'handfast', '')")
            assert eventually(lambda: commit.done() or waiting_for_standby(server))  # noqa: B023
            if not commit.done():
                break
        while not commit.done():
            server.execute(*(f"SELECT pg_cancel_backend({pid})" for pid in waiting_for_standby(server)))
        yield
