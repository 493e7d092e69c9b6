"""Databases of a test's own, where it needs one without servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.server.accounts.server import SCHEMA
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.process.settings import sqlite_url
from tests.databases.postgresql import PostgreSQL
from tests.transactions.participants import Users


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "new.sqlite3")
    server: PostgreSQL = request.getfixturevalue("server")
    return server.emptied()


@pytest.fixture
def users(database_url: str) -> Iterator[Users]:
    users = Users(database_url)
    yield users
    users.database.close()


@pytest.fixture
def accounts(database_url: str) -> Iterator[Database]:
    """The one of an accounts server."""
    database = Database(database_url)
    upgrade(database, SCHEMA)
    yield database
    database.close()
