"""A database that nobody has used, of the kind that the shared suite runs on."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from handfast.server.process.settings import sqlite_url


def fresh_database(database_urls: Mapping[str, str], folder: Path) -> str:
    """Its URL: a file in `folder`, or a database beside those of `database_urls`."""
    if not database_urls:
        return sqlite_url(folder / "fresh.sqlite3")
    name = f"fresh_{uuid.uuid4().hex}"
    url = sa.make_url(next(iter(database_urls.values())))
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)
