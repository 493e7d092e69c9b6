"""Databases of a test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.server.process.settings import sqlite_url
from tests.databases.postgresql import PostgreSQL, postgresql

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSQL]:
    """A PostgreSQL that tests share, each with databases of its own in it."""
    with postgresql() as server:
        yield server


@pytest.fixture
def empty_database(server: PostgreSQL) -> str:
    """The name of one in PostgreSQL that nobody has used."""
    name = f"empty_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name}")
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database that nobody has used, on each engine."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "new.sqlite3")
    server: PostgreSQL = request.getfixturevalue("server")
    return server.url(request.getfixturevalue("empty_database"))
