"""Migrations lead to the tables that the code expects."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade


@pytest.mark.parametrize("server", ["users", "preferences", "accounts"])
def test_a_new_database_gets_the_tables_that_the_code_expects(server: str, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/new.sqlite3")
    upgrade(database, f"handfast.server.{server}:migrations")
    upgrade(database, f"handfast.server.{server}:migrations")  # a second time changes nothing
    metadata = importlib.import_module(f"handfast.server.{server}.tables").metadata
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.close()
