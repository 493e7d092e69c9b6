"""Migrations lead to the tables that the code expects, in a database that is this server's, from whatever was there."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from handfast.server.accounts.server import SCHEMA as ACCOUNTS
from handfast.server.chassis.data.backend import DatabaseError
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import database_check, upgrade
from handfast.server.chassis.data.schema import MARK, Schema, tables
from handfast.server.preferences.server import SCHEMA as PREFERENCES
from handfast.server.users import migrations as migrations_of_users
from handfast.server.users.server import SCHEMA as USERS

each_server = pytest.mark.parametrize("schema", [USERS, PREFERENCES, ACCOUNTS], ids=lambda schema: schema.owner)


@each_server
def test_a_new_database_gets_the_tables_that_the_code_expects(schema: Schema, new_url: str) -> None:
    with closing(Database(new_url)) as database:
        upgrade(database, schema)
        upgrade(database, schema)  # a second time changes nothing
        assert differences(database, schema) == []


@each_server
def test_a_database_whose_version_is_noted_where_all_servers_had_it_stays_in_use(schema: Schema, new_url: str) -> None:
    with closing(Database(new_url)) as database:
        make_first_revision(database, schema)
        database.write(lambda connection: connection.exec_driver_sql("UPDATE horizon SET transaction_id = 'kept'"))
        upgrade(database, schema)
        database_check(database, schema)()
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT transaction_id FROM horizon").scalar_one() == "kept"
            assert "alembic_version" not in tables(connection)


@pytest.mark.parametrize("make", [upgrade, lambda database, schema: make_first_revision(database, schema)])
def test_a_database_of_another_server_is_refused_and_stays_as_it_is(
    make: Callable[[Database, Schema], None], new_url: str
) -> None:
    with closing(Database(new_url)) as database:
        make(database, USERS)
        before = found_in(database)
        for other in (PREFERENCES, ACCOUNTS):
            with pytest.raises(DatabaseError, match=r"it holds the data of users|it lacks the tables"):
                upgrade(database, other)
        assert found_in(database) == before
        upgrade(database, USERS)


def test_a_version_table_of_somebody_else_is_left_alone(new_url: str) -> None:
    with closing(Database(new_url)) as database:
        ddl = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"
        database.write(lambda connection: connection.exec_driver_sql(ddl))
        upgrade(database, USERS)
        assert {"alembic_version", "alembic_version_users"} <= found_in(database)


def test_code_runs_on_a_newer_schema_that_says_so(new_url: str, tmp_path: Path) -> None:
    newer = newer_than_users(tmp_path, oldest_code=newest_of(USERS))
    with closing(Database(new_url)) as database:
        upgrade(database, USERS)
        check = database_check(database, USERS)
        upgrade(database, newer)
        check()  # a replica that runs meanwhile
        upgrade(database, USERS)  # and one that starts
        database_check(database, newer)()  # what is newer stays


def test_code_does_not_run_on_a_newer_schema_that_does_not_say_so(new_url: str, tmp_path: Path) -> None:
    newer = newer_than_users(tmp_path, oldest_code=None)
    expected = f"its schema is 9999, which needs code of revision 9999 or later; this is {newest_of(USERS)}"
    with closing(Database(new_url)) as database:
        upgrade(database, USERS)
        check = database_check(database, USERS)
        upgrade(database, newer)
        for refused in (check, lambda: upgrade(database, USERS)):
            with pytest.raises(DatabaseError, match=expected):
                refused()
        database_check(database, newer)()


def test_code_does_not_run_on_an_older_schema(new_url: str, tmp_path: Path) -> None:
    newer = newer_than_users(tmp_path, oldest_code=newest_of(USERS))
    with closing(Database(new_url)) as database:
        upgrade(database, USERS)  # such as from a backup, restored while the server runs
        expected = f"its schema is {newest_of(USERS)}, and 9999 is needed: run `handfast migrate users=.*`, or"
        with pytest.raises(DatabaseError, match=expected):
            database_check(database, newer)()


def differences(database: Database, schema: Schema) -> list[object]:
    """What the tables have and the code does not expect, or the other way round."""
    metadata = importlib.import_module(f"handfast.server.{schema.owner}.tables").metadata
    with database.read() as connection:
        compared = {"version_table": schema.version_table, "include_name": lambda name, *_: name != MARK.name}
        return list(compare_metadata(MigrationContext.configure(connection, opts=compared), metadata))


def newest_of(schema: Schema) -> str:
    config = Config()
    config.set_main_option("script_location", schema.migrations)
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None
    return head


def newer_than_users(folder: Path, *, oldest_code: str | None) -> Schema:
    """The schema of users as a later release may have it, with one more revision."""
    (of_users,) = migrations_of_users.__path__
    shutil.copytree(of_users, folder / "migrations")
    says_so = "" if oldest_code is None else f"oldest_code = {oldest_code!r}\n"
    (folder / "migrations" / "versions" / "9999_newer.py").write_text(
        f"from alembic import op\nrevision = '9999'\ndown_revision = {newest_of(USERS)!r}\n{says_so}"
        "def upgrade():\n    op.execute('CREATE TABLE newer (id INTEGER)')\n"
    )
    return Schema(USERS.owner, str(folder / "migrations"))


def make_first_revision(database: Database, schema: Schema) -> None:
    """As the first servers made it: Alembic's table has its usual name, and nothing says whose it is."""
    config = Config()
    config.set_main_option("script_location", schema.migrations)
    scripts = ScriptDirectory.from_config(config)
    base = scripts.get_base()
    assert base is not None

    def steps(version: object, _context: object) -> object:
        return scripts._upgrade_revs(base, version)  # type: ignore[arg-type]

    with database.engine.begin() as connection, EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()


def found_in(database: Database) -> set[str]:
    with database.read() as connection:
        return tables(connection)
