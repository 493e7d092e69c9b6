"""What `Database` promises of each engine: durable, in turn, and refused where it cannot be so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from handfast.server.chassis.data import sqlite as sqlite_backend
from handfast.server.chassis.data.backend import DatabaseError
from handfast.server.chassis.data.database import Database, key_text
from handfast.server.chassis.data.statements import Statement
from handfast.server.process.settings import sqlite_url
from tests.databases.postgresql import PostgreSQL

NOTES = sa.Table("notes", sa.MetaData(), sa.Column("key", key_text(20), primary_key=True))
LINES = sa.Table(
    "lines", NOTES.metadata, sa.Column("key", sa.ForeignKey("notes.key"), primary_key=True), sa.Column("line", sa.Text)
)


@pytest.fixture
def database(new_url: str) -> Iterator[Database]:
    with closing(Database(new_url, connections=2)) as database:
        database.check()
        database.write(lambda connection: NOTES.metadata.create_all(connection))
        yield database


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(sqlite_url(tmp_path / "new.sqlite3"), connections=2)) as database:
        yield database


def not_begun(_connection: sa.Connection) -> None:
    pytest.fail("it was begun")


def insert(database: Database, *keys: str) -> None:
    statement = Statement(database, sa.insert(NOTES))
    database.write(lambda connection: statement.send_each(connection, [{"key": key} for key in keys]))


def keys(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(sa.select(NOTES.c.key).order_by(NOTES.c.key)).scalars())


def test_keys_sort_by_code_point(database: Database) -> None:
    insert(database, "b", "A", "é", "a", "B", "_")
    assert keys(database) == sorted(["b", "A", "é", "a", "B", "_"])


def test_a_write_returns_what_its_work_does_and_leaves_nothing_where_that_fails(database: Database) -> None:
    def fail(connection: sa.Connection) -> None:
        connection.execute(sa.insert(NOTES), {"key": "lost"})
        raise KeyError

    assert database.write(lambda _connection: 5) == 5
    with pytest.raises(KeyError):
        database.write(fail)
    insert(database)  # of nothing
    assert keys(database) == []


def test_what_is_new_is_inserted_once_and_the_row_count_tells(database: Database) -> None:
    statement = database.insert_new(NOTES)
    counts = [database.write(lambda connection: connection.execute(statement, {"key": "a"}).rowcount) for _ in "12"]
    assert counts == [1, 0]
    assert keys(database) == ["a"]


def test_a_row_without_the_one_that_it_refers_to_is_refused(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError) as caught:
        database.write(lambda connection: connection.execute(sa.insert(LINES), {"key": "nobody", "line": "hunter2"}))
    assert "hunter2" not in str(caught.value)  # which is logged


def test_an_error_of_a_read_says_nothing_of_its_parameters(database: Database) -> None:
    with pytest.raises(DBAPIError) as caught, database.read() as connection:
        connection.execute(sa.text("SELECT :line FROM nowhere"), {"line": "hunter2"})
    assert "nowhere" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_probe_is_answered_though_all_connections_are_in_use(database: Database) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(database.read())
        assert database.probe(sa.select(sa.literal(7))) == (7,)


def test_sqlite_writes_what_survives_a_power_cut_and_does_not_write_while_it_reads(sqlite: Database) -> None:
    def setting(connection: sa.Connection, name: str) -> object:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()

    sqlite.check()
    found = sqlite.write(lambda c: [setting(c, name) for name in ("journal_mode", "synchronous", "foreign_keys")])
    assert found == ["wal", 2, 1]
    sqlite.write(lambda connection: NOTES.metadata.create_all(connection))
    with sqlite.read() as connection, pytest.raises(DBAPIError):
        connection.execute(sa.insert(NOTES), {"key": "a"})
    with pytest.raises(DBAPIError):
        sqlite.probe(sa.insert(NOTES).values(key="a").returning(NOTES.c.key))  # type: ignore[arg-type]


def test_a_write_of_sqlite_begins_by_keeping_other_processes_out(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_backend, "PATIENCE_S", 0.05)
    monkeypatch.setattr(sqlite_backend, "BUSY_S", 0.01)
    with closing(Database(sqlite.name)) as other:

        def begin_another(_connection: sa.Connection) -> None:
            with pytest.raises(DBAPIError, match="locked"):
                other.write(not_begun)

        sqlite.write(begin_another)


def test_a_write_within_the_work_of_another_is_refused(database: Database) -> None:
    def work(connection: sa.Connection) -> None:
        connection.execute(sa.insert(NOTES), {"key": "outer"})
        with pytest.raises(RuntimeError, match="would wait for itself"):
            database.write(not_begun)

    database.write(work)
    assert keys(database) == ["outer"]


def test_sqlite_that_would_lose_commits_is_refused(sqlite: Database) -> None:
    event.listen(
        sqlite.backend.autocommit,
        "connect",
        lambda connection, _: connection.execute("PRAGMA synchronous = NORMAL"),
    )
    with pytest.raises(DatabaseError, match="not be durable"):
        sqlite.check()


@pytest.mark.parametrize("setting", ["fsync", "synchronous_commit"])
def test_postgresql_that_would_lose_commits_is_refused(server: PostgreSQL, empty_database: str, setting: str) -> None:
    def say(value: str) -> None:
        server.execute(f"ALTER SYSTEM SET {setting} = {value}", "SELECT pg_reload_conf()")

    def check() -> None:
        with closing(Database(server.url(empty_database))) as database:
            database.check()

    check()
    try:
        say("off")
        with pytest.raises(DatabaseError, match=f"{setting} = off: commits would not be durable"):
            check()
    finally:
        say("on")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://localhost/users", "must begin with sqlite:// or postgresql://"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("users", "must begin with"),
        ("postgresql://localhost:port/users", "not of the form"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, why: str) -> None:
    with pytest.raises(DatabaseError, match=why):
        Database(url)
