"""Databases of a test's own, where it needs one without servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.server.accounts.server import SCHEMA
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from tests.databases.fresh import fresh_database
from tests.databases.postgresql import postgresql
from tests.transactions.participants import Users


@pytest.fixture(scope="session")
def postgresql_urls() -> Iterator[dict[str, str]]:
    with postgresql() as server:
        yield server.create_databases()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database that nobody has used."""
    urls = request.getfixturevalue("postgresql_urls") if request.param == "postgresql" else {}
    return fresh_database(urls, tmp_path)


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
