"""Databases are migrated apart from serving: forth and back, once, and beside servers that run."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from operator import methodcaller
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import sqlalchemy as sa

from handfast.server.chassis import DatabaseSettings, StartError, open_database
from handfast.server.chassis.data import migrations, steps
from handfast.server.chassis.data.backend import DatabaseError
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import migrate, plan, upgrade
from handfast.server.chassis.data.revisions import Plan, Revisions
from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.ids import new_id
from handfast.server.cli.supervisor import HANDFAST
from handfast.server.process.settings import sqlite_url
from handfast.server.transactions.core.model import Outcome
from handfast.server.users.errors import EmailTaken
from handfast.server.users.server import SCHEMA as USERS
from tests.cli.processes import CLEAN
from tests.databases.postgresql import PostgreSQL
from tests.databases.test_migrations import differences, each_server, found_in, newer_than_users, newest_of
from tests.eventually import PATIENCE, eventually
from tests.transactions.participants import Users


@pytest.fixture
def database(new_url: str) -> Iterator[Database]:
    with closing(opened(new_url)) as database:
        yield database


URLS: WeakKeyDictionary[Database, str] = WeakKeyDictionary()


def opened(url: str) -> Database:
    URLS[database := Database(url)] = url
    return database


@each_server
def test_every_revision_can_be_taken_back_and_made_again(schema: Schema, database: Database) -> None:
    upgrade(database, schema)
    first = Revisions.of(schema).plan(None, None).revisions[0].name
    assert migrate(database, schema, first).goes_back
    assert version(database, schema) == (first, first)
    with pytest.raises(StartError, match=f"its schema is {first}"):
        start(database, schema)
    assert migrate(database, schema).revisions[0].name > first
    start(database, schema)
    assert differences(database, schema) == []


@each_server
def test_no_revision_lets_code_run_that_one_before_it_has_shut_out(schema: Schema) -> None:
    revisions = Revisions.of(schema).plan(None, None).revisions
    oldest = [each.oldest_code for each in revisions]
    assert oldest == sorted(oldest)
    assert all(each.oldest_code <= each.name for each in revisions)


def test_a_plan_says_what_would_be_done_and_does_nothing(database: Database) -> None:
    assert plan(database, USERS).version is None
    if database.dialect == "sqlite":
        assert not database.backend.is_there()
    migrate(database, USERS, "0003")
    before = found_in(database)
    forth, back = plan(database, USERS), plan(database, USERS, "0002")
    assert [each.name for each in forth.revisions][:2] == ["0004", "0005"]
    assert forth.revisions[0].summary == "Read locks of transactions, and operations that change several resources."
    assert ([each.name for each in back.revisions], back.goes_back) == (["0003"], True)
    assert found_in(database) == before
    assert version(database, USERS) == ("0003", "0003")


def test_a_revision_that_there_is_not_is_named_with_those_that_there_are(database: Database) -> None:
    with pytest.raises(DatabaseError, match="there is no revision 7000; there are 0001, 0002, "):
        migrate(database, USERS, "7000")


@pytest.mark.parametrize("do", [plan, migrate])
def test_tables_of_another_program_are_told_in_one_line_by_a_dry_run_too(
    database: Database, do: Callable[[Database, Schema], object]
) -> None:
    for name in ("users", "claims", "of_another"):
        database.write(methodcaller("exec_driver_sql", f"CREATE TABLE {name} (id INTEGER)"))
    with pytest.raises(DatabaseError, match="it has tables of the names claims, users, which are not users's"):
        do(database, USERS)
    assert found_in(database) == {"users", "claims", "of_another"}


@pytest.mark.parametrize("do", [plan, migrate, lambda database, _: start(database, USERS)])
def test_a_version_that_was_lost_is_told_in_one_line(
    database: Database, do: Callable[[Database, Schema], object]
) -> None:
    upgrade(database, USERS)
    database.write(methodcaller("exec_driver_sql", "DELETE FROM alembic_version_users"))
    with pytest.raises((DatabaseError, StartError), match="its table alembic_version_users is empty: was only a part"):
        do(database, USERS)


def test_a_server_does_not_start_on_what_is_not_set_up_and_leaves_it_so(database: Database) -> None:
    with pytest.raises(StartError, match="it is not set up: run `handfast migrate users`, or start with --migrate"):
        start(database, USERS)
    if database.dialect == "sqlite":
        assert not database.backend.is_there()
    else:
        assert found_in(database) == set()


def test_a_server_does_not_start_on_a_schema_that_is_behind_unless_it_is_to_upgrade_it(database: Database) -> None:
    migrate(database, USERS, "0003")
    with pytest.raises(StartError, match=r"its schema is 0003, and .* is needed: run `handfast migrate users`, or"):
        start(database, USERS)
    start(database, USERS, migrate=True)
    start(database, USERS)


@pytest.mark.parametrize("migrates", [False, True])
def test_an_empty_database_that_must_exist_is_not_set_up(database: Database, migrates: bool) -> None:
    expected = "it is empty, and it must exist" if database.dialect == "postgresql" else "and it must exist"
    with pytest.raises(StartError, match=expected):
        start(database, USERS, migrate=migrates, database_must_exist=True)


def test_of_two_that_migrate_to_different_revisions_at_once_one_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite, where each revision is a turn; on PostgreSQL the second waits until the first is through."""
    url = sqlite_url(tmp_path / "new.sqlite3")
    takes_a_turn = migrations._go_on

    def another_takes_it_back(database: Database, *arguments: Any) -> Plan:
        turn = takes_a_turn(database, *arguments)
        with closing(Database(url)) as other:
            takes_a_turn(other, USERS, Revisions.of(USERS), "0003", False)
        return turn

    with closing(opened(url)) as database:
        migrate(database, USERS, "0003")
        monkeypatch.setattr(migrations, "_go_on", another_takes_it_back)
        with pytest.raises(DatabaseError, match="its schema is 0003 again: somebody else migrates it at"):
            migrate(database, USERS)
        assert version(database, USERS) == ("0003", "0003")


def test_of_several_that_migrate_at_once_one_works_and_the_others_wait(database: Database, new_url: str) -> None:
    together = threading.Barrier(4)

    def replica() -> None:
        with closing(Database(new_url)) as own:
            together.wait()
            own.check()
            upgrade(own, USERS)

    with ThreadPoolExecutor(4) as threads:
        for each in [threads.submit(replica) for _ in range(4)]:
            each.result()
    start(database, USERS)


def test_a_revision_that_fails_leaves_those_before_it_done(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(database, USERS, "0003")
    add_erasure = "handfast.server.transactions.participant.migrations.add_erasure"
    with monkeypatch.context() as broken:
        broken.setattr(add_erasure, fail)
        with pytest.raises(DatabaseError, match="no room"):
            migrate(database, USERS)
    assert version(database, USERS)[0] == "0004"
    assert migrate(database, USERS).revisions[0].name == "0005"


@pytest.mark.parametrize("to", ["0004", "0001"], ids=["by one revision", "by all of them"])
def test_what_is_committed_and_what_open_transactions_have_staged_outlives_the_way_back_and_forth(
    new_url: str, to: str
) -> None:
    users = Users(new_url)
    with closing(users.database) as database:
        users.create("ada", "bob")
        tx, other = new_id(), new_id()
        users.stage(tx, "ada", 1, "countess@example.com")
        users.stage(tx, "cyd", 2)
        users.stage_deletion(tx, "bob", 3)
        users.stage(other, "dan")
        assert migrate(database, USERS, to).goes_back
        migrate(database, USERS)
        assert users.finish(tx, Outcome.COMMITTED, 3)
        assert users.finish(other, Outcome.ABORTED, 0)
        found = users.collection.batch(["ada", "bob", "cyd", "dan"])
        assert {key: version.message.email for key, version in found.items()} == {
            "ada": "countess@example.com",
            "cyd": "cyd@example.com",
        }
        users.create("eve")
        with pytest.raises(EmailTaken):
            users.stage(new_id(), "eve", 1, "countess@example.com")


def test_the_way_back_is_told_in_one_line_where_open_transactions_are_in_it(database: Database) -> None:
    upgrade(database, USERS)
    database.write(
        lambda connection: connection.exec_driver_sql(
            "INSERT INTO operations (transaction_id, number, part, kind, resource, is_lock)"
            " VALUES ('t', 1, 1, 'users', 'ada', true)"
        )
    )
    with pytest.raises(DatabaseError, match="1 parts of open transactions cannot be kept; finish these first"):
        migrate(database, USERS, "0003")
    assert version(database, USERS)[0] == "0004"


def test_a_revision_without_a_way_back_stays(database: Database, tmp_path: Path) -> None:
    newer = newer_than_users(tmp_path, oldest_code=None)
    upgrade(database, newer)
    with pytest.raises(DatabaseError, match="revision 9999 cannot be taken back: it has no downgrade"):
        migrate(database, newer, newest_of(USERS))
    assert version(database, newer) == ("9999", "9999")


def test_a_schema_that_is_newer_than_the_code_stays_as_it_is(database: Database, tmp_path: Path) -> None:
    newer = newer_than_users(tmp_path, oldest_code=newest_of(USERS))
    upgrade(database, newer)
    assert (migrate(database, USERS).version, plan(database, USERS).revisions) == ("9999", [])
    with pytest.raises(DatabaseError, match="its schema is 9999, from which only code that has this revision leads"):
        migrate(database, USERS, "0004")
    start(database, USERS)
    assert version(database, newer) == ("9999", newest_of(USERS))


def test_a_revision_that_waits_for_a_lock_holds_up_no_call(server: PostgreSQL) -> None:
    url = server.emptied()
    with closing(opened(url)) as database, closing(Database(url)) as another, ThreadPoolExecutor(1) as thread:
        migrate(database, USERS, "0004")
        with another.engine.begin() as report:  # which takes long, as a backup may
            report.exec_driver_sql("SELECT * FROM requests").all()
            migrating = thread.submit(upgrade, another, USERS)
            assert eventually(lambda: waiting(database))
            for _ in range(3):
                database.write(lambda connection: connection.exec_driver_sql("DELETE FROM requests"))
            assert not migrating.done()
        migrating.result()
        start(database, USERS)


def test_a_command_that_is_stopped_while_it_migrates_ends_its_query_and_the_next_one_goes_on(
    server: PostgreSQL,
) -> None:
    url = server.emptied()
    command = [*HANDFAST, "migrate", "users", "--database-url", url]
    with closing(opened(url)) as database:
        migrate(database, USERS, "0003")
        with database.engine.begin() as report:
            report.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            report.exec_driver_sql("SELECT * FROM requests").all()
            with subprocess.Popen(command, env=CLEAN, stdout=subprocess.PIPE, text=True) as migrating:
                assert eventually(lambda: waiting(database))
                migrating.terminate()
                assert (migrating.wait(PATIENCE), migrating.communicate()[0]) == (128 + signal.SIGTERM, "")
            assert eventually(lambda: not waiting(database))
        assert version(database, USERS)[0] == "0004"
        done = subprocess.run(command, env=CLEAN, stdout=subprocess.PIPE, text=True)
        assert (done.returncode, done.stdout) == (0, "users: upgraded from 0004 to 0005\n")


def test_a_database_that_others_keep_locked_is_told_in_one_line(
    server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "PATIENCE_S", 0.0)
    url = server.emptied()
    with closing(Database(url)) as database:
        migrate(database, USERS, "0004")
        with database.engine.begin() as report:
            report.exec_driver_sql("SELECT * FROM requests").all()
            with pytest.raises(DatabaseError, match=r"cannot use .*: canceling statement due to lock timeout"):
                upgrade(database, USERS)


def test_servers_need_no_right_to_change_a_schema(server: PostgreSQL) -> None:
    url = sa.make_url(server.emptied())
    with closing(Database(url.render_as_string(hide_password=False))) as owner:
        upgrade(owner, USERS)
    name = url.database or ""
    server.execute("CREATE ROLE serves LOGIN", database=name)
    tables = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO serves"
    server.execute("GRANT USAGE ON SCHEMA public TO serves", tables, database=name)
    with closing(opened(url.set(username="serves").render_as_string(hide_password=False))) as database:
        start(database, USERS)


def start(database: Database, schema: Schema, **settings: bool) -> None:
    """As a server does."""
    url = URLS[database]
    its = DatabaseSettings(name=schema.owner, listen="127.0.0.1:0", database_url=url, **settings)  # type: ignore[arg-type]
    open_database(its, schema).close()


def version(database: Database, schema: Schema) -> tuple[str, str]:
    with database.read() as connection:
        name, oldest_code = connection.execute(schema.version()).one()
    return name, oldest_code


def waiting(database: Database) -> bool:
    with database.read() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'relation'"
        return bool(connection.exec_driver_sql(query).scalar_one())


def fail() -> None:
    raise DatabaseError("no room")
