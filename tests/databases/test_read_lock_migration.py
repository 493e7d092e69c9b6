"""The step that brings the tables of a participant from one change to an operation to several, and to read locks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from handfast.server.chassis.data.backend import DatabaseError
from handfast.server.chassis.data.database import Database, key_text
from handfast.server.chassis.ids import new_id
from handfast.server.chassis.start_errors import StartError
from handfast.server.suite import SuiteSettings
from handfast.server.transactions import migrations, resource_table
from handfast.server.transactions.core.model import NO_REVISION, Outcome, Read, ResourceName
from handfast.server.users.server import build
from handfast.server.users.tables import participant as tables
from tests.transactions.participants import Users

STEP: Any = importlib.import_module("handfast.server.users.migrations.versions.0004_read_locks")


def run(database: Database, step: Callable[[], None]) -> None:
    with database.engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        step()


@pytest.fixture
def users(new_url: str) -> Iterator[Users]:
    users = Users(new_url)
    users.create("ada", "bob")
    with closing(users.database):
        yield users


def operations(users: Users) -> list[Any]:
    with users.database.read() as connection:
        rows = connection.execute(sa.select(tables.operations).order_by(*tables.operations.primary_key))
        return [row._asdict() for row in rows]


def test_what_is_staged_outlives_it_in_both_directions(users: Users) -> None:
    tx, other = sorted([new_id(), new_id()])
    users.stage(tx, "ada", 1, "countess@example.com")
    users.stage(tx, "cyd", 2)
    users.stage_deletion(tx, "bob", 3)
    users.stage(other, "dan")
    before = operations(users)
    run(users.database, STEP.downgrade)
    run(users.database, STEP.upgrade)
    assert operations(users) == [{**row, "reads": None} for row in before]  # only a repeat would miss those
    users.stage(tx, "ada", 4, "ada@example.com")
    assert users.finish(tx, Outcome.COMMITTED, 4)
    assert users.finish(other, Outcome.ABORTED, 0)
    found = users.collection.batch(["ada", "bob", "cyd", "dan"])
    assert {key: version.message.email for key, version in found.items()} == {
        "ada": "ada@example.com",
        "cyd": "cyd@example.com",
    }
    assert operations(users) == []


def test_what_was_there_before_has_an_empty_revision_that_can_be_locked_until_it_changes(users: Users) -> None:
    run(users.database, STEP.downgrade)
    run(users.database, STEP.upgrade)
    assert users.collection.revisions(["ada"]) == {"ada": ""}
    tx = new_id()
    users.lock(tx, 1, Read(ResourceName("users", "ada"), "", held=False))
    assert users.finish(tx, Outcome.COMMITTED, 1)
    users.create("ada")
    assert users.collection.revisions(["ada"])["ada"] not in ("", NO_REVISION)


def test_a_second_time_it_does_nothing(users: Users) -> None:
    users.stage(new_id(), "ada")
    before = operations(users)
    run(users.database, STEP.upgrade)
    assert operations(users) == before


def test_the_way_back_waits_for_read_locks(users: Users) -> None:
    tx = new_id()
    users.lock(tx, 1, Read(ResourceName("users", "none"), NO_REVISION, held=False))
    with pytest.raises(DatabaseError, match="1 parts of open transactions cannot be kept"):
        run(users.database, STEP.downgrade)
    assert users.finish(tx, Outcome.ABORTED, 0)
    run(users.database, STEP.downgrade)


def test_a_server_whose_tables_are_behind_names_the_step(users: Users, new_url: str) -> None:
    run(users.database, STEP.downgrade)  # but not by its schema's version, as a service is that has no such migration
    settings = SuiteSettings(name="users", listen="127.0.0.1:0", database_url=new_url, migrate=True)
    with pytest.raises(StartError, match="its table branches lacks owner: add a migration that calls add_read_locks"):
        build(settings)


def test_a_server_that_has_no_migration_for_a_kind_names_the_step(users: Users) -> None:
    table = resource_table("loan", sa.MetaData(), sa.Column("loan_id", key_text(64), primary_key=True))
    with users.database.engine.connect() as connection:
        missing = migrations.missing(connection, [table], ["loan"])
    assert missing is not None
    assert missing.startswith("its table loan lacks present, ")
    assert "add a migration that calls create_resource_table" in missing
