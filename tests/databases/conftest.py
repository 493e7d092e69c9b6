"""Databases of a test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.server.process.settings import sqlite_url
from tests.databases.postgresql import PostgreSQL, postgresql

_numbers = itertools.count(1)


@pytest.fixture
def empty_database(server: PostgreSQL) -> str:
    """The name of one in PostgreSQL that nobody has used."""
    name = f"empty_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name}")
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database, on each engine."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "new.sqlite3")
    server: PostgreSQL = request.getfixturevalue("server")
    return server.emptied()


@pytest.fixture(scope="session")
def own_server() -> Iterator[PostgreSQL]:
    """A server whose settings these tests change, and which they pause."""
    with postgresql() as server:
        yield server
