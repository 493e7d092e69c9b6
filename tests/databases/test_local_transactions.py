"""Local transactions run again where they certainly did not happen, and only there (rule 11)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from handfast.server.chassis.data import database as databases
from handfast.server.chassis.data import postgresql
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.postgresql_session import PostgresqlSession
from handfast.server.chassis.data.statements import Statement
from handfast.server.chassis.errors import DatabaseConflict
from tests.databases.postgresql import PostgreSQL
from tests.eventually import PATIENCE

BOTH = ("a", "b")
COUNTERS = sa.table("counters", sa.column("name", sa.Text), sa.column("value", sa.Integer))


@pytest.fixture
def counters(server: PostgreSQL, empty_database: str) -> Iterator[Database]:
    """Two counters, at 0, on PostgreSQL."""
    server.execute(
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
        "INSERT INTO counters VALUES ('a', 0), ('b', 0)",
        database=empty_database,
    )
    with closing(Database(server.url(empty_database))) as database:
        yield database


def add(connection: sa.Connection, name: str) -> None:
    connection.execute(sa.text("UPDATE counters SET value = value + 1 WHERE name = :name"), {"name": name})


def values(database: Database) -> list[int]:
    with database.read() as connection:
        return [row.value for row in connection.execute(sa.text("SELECT value FROM counters ORDER BY name"))]


@pytest.mark.parametrize("committed", [False, True])
def test_one_whose_connection_is_lost_at_its_commit_is_not_run_again(
    counters: Database, server: PostgreSQL, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    runs = []

    def work(connection: sa.Connection) -> None:
        runs.append(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
        add(connection, "a")

    def lose(session: PostgresqlSession) -> None:
        if committed:
            session.count("COMMIT AND CHAIN", ())
        server.execute(f"SELECT pg_terminate_backend({runs[-1]}, 5000)")
        commit(session)

    commit = PostgresqlSession.commit
    monkeypatch.setattr(PostgresqlSession, "commit", lose)
    with pytest.raises(DBAPIError):
        counters.write(work)
    monkeypatch.undo()
    assert len(runs) == 1
    assert values(counters) == [int(committed), 0]
    counters.write(work)  # on another connection


def test_one_whose_work_hid_an_error_is_an_error_and_not_taken_for_committed(counters: Database) -> None:
    def work(connection: sa.Connection) -> None:
        add(connection, "a")
        with suppress(DBAPIError):
            connection.execute(sa.text("SELECT * FROM nowhere"))

    with pytest.raises(DBAPIError):
        counters.write(work)
    assert values(counters) == [0, 0]


def test_one_that_fails_leaves_a_connection_that_serves_on_whatever_it_was_used_for_before(
    counters: Database,
) -> None:
    find = Statement(counters, sa.select(COUNTERS).where(COUNTERS.c.name == sa.bindparam("name_")))
    insert = Statement(counters, sa.insert(COUNTERS))
    update = Statement(counters, sa.update(COUNTERS).where(COUNTERS.c.name == sa.bindparam("name_")))

    def refuse(connection: sa.Connection) -> None:
        find.first(connection, name_="a")
        raise KeyError

    def insert_again(connection: sa.Connection) -> None:
        find.first(connection, name_="a")
        insert.send(connection, name="a", value=0)  # this fails,
        update.send(connection, name_="b", value=0)  # and this is skipped, as is the COMMIT

    for writes in range(8):
        counters.close()  # so that what comes next is on a new connection
        with suppress(KeyError):
            counters.write(refuse)
        for _ in range(writes):
            counters.write(lambda connection: update.send(connection, name_="b", value=1))
        with pytest.raises(IntegrityError):
            counters.write(insert_again)
        counters.write(lambda connection: update.send(connection, name_="b", value=2))
        assert values(counters) == [0, 2]


def test_one_that_fails_again_and_again_prepares_its_statements_once(counters: Database) -> None:
    update = Statement(counters, sa.update(COUNTERS).where(COUNTERS.c.name == sa.bindparam("name_")))
    insert = Statement(counters, sa.insert(COUNTERS))
    skipped = Statement(counters, sa.delete(COUNTERS))

    def work(connection: sa.Connection) -> None:
        update.send(connection, name_="b", value=1)
        insert.send(connection, name="a", value=0)  # this fails
        skipped.send(connection)

    for _ in range(5):
        with pytest.raises(IntegrityError):
            counters.write(work)
    with counters.read() as connection:
        prepared = connection.exec_driver_sql("SELECT statement FROM pg_prepared_statements").scalars().all()
    assert sorted(statement.split()[0] for statement in prepared) == ["BEGIN", "INSERT", "UPDATE"]
    counters.write(lambda connection: skipped.send(connection))
    assert values(counters) == []


def test_one_that_fails_raises_its_error_and_logs_nothing_besides(
    counters: Database, caplog: pytest.LogCaptureFixture
) -> None:
    insert = Statement(counters, sa.insert(COUNTERS))
    update = Statement(counters, sa.update(COUNTERS).where(COUNTERS.c.name == sa.bindparam("name_")))

    def work(connection: sa.Connection) -> None:
        insert.send(connection, name="a", value=0)  # this fails, and says so while others are still being sent
        update.send_each(connection, [{"name_": "b", "value": value} for value in range(500)])

    with pytest.raises(IntegrityError):
        counters.write(work)
    assert not caplog.records


def test_where_begin_fails_nothing_is_done_outside_of_a_local_transaction(
    counters: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = Statement(counters, sa.insert(COUNTERS))
    monkeypatch.setattr(postgresql, "_BEGIN", "BEGIN NOTHING")
    works: list[Callable[[sa.Connection], object]] = [
        lambda connection: insert.run(connection, name="c", value=0),
        lambda connection: insert.send(connection, name="c", value=0),
        lambda connection: insert.send_each(connection, [{"name": name, "value": 0} for name in ("c", "d")]),
        lambda connection: add(connection, "a"),
    ]
    for work in works:
        with pytest.raises(DBAPIError):
            counters.write(work)
    assert values(counters) == [0, 0]


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT", ""])
def test_one_that_goes_on_though_it_has_ended_or_never_began_stores_nothing_more(
    counters: Database, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    update = Statement(counters, sa.update(COUNTERS).where(COUNTERS.c.name == sa.bindparam("name_")))
    if not end:
        monkeypatch.setattr(postgresql, "_BEGIN", "BEGIN NOTHING")

    def work(connection: sa.Connection) -> None:
        with suppress(DBAPIError):
            connection.exec_driver_sql(end or "SELECT 1")
        for late in (
            lambda: add(connection, "a"),
            lambda: update.run(connection, name_="a", value=5),
        ):
            with pytest.raises(DBAPIError, match="has ended, and its work went on"):
                late()
        update.send(connection, name_="b", value=5)

    with pytest.raises(DBAPIError):
        counters.write(work)
    assert values(counters) == [0, 0]


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_one_whose_work_ends_it_by_itself_is_refused_and_leaves_its_connection_as_it_was(
    counters: Database, end: str
) -> None:
    def work(connection: sa.Connection) -> None:
        add(connection, "a")
        getattr(connection, end)()

    for _ in range(2):  # as the second may find on the connection what the first left of it
        with pytest.raises(RuntimeError, match=f"not for its users to {end}"):
            counters.write(work)
    assert values(counters) == [0, 0]


def test_one_that_executes_nothing_leaves_its_connection_as_it_was(counters: Database) -> None:
    assert counters.write(lambda _connection: 5) == 5
    counters.write(lambda connection: add(connection, "a"))
    assert values(counters) == [1, 0]


def test_one_that_lost_a_deadlock_is_run_again(counters: Database) -> None:
    barrier = threading.Barrier(2)
    runs: list[str] = []

    def write(order: tuple[str, str]) -> None:
        def work(connection: sa.Connection) -> None:
            runs.append(order[0])
            add(connection, order[0])
            if len(runs) <= 2:
                barrier.wait(PATIENCE)
            add(connection, order[1])

        counters.write(work)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, [("a", "b"), ("b", "a")]))
    assert len(runs) >= 3  # as it may lose again
    assert values(counters) == [2, 2]


def test_one_that_keeps_losing_gives_up_and_says_to_come_again(
    counters: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def draw(_shortest: float, longest: float) -> float:
        pauses.append(longest)
        return 0.0

    monkeypatch.setattr(databases, "WRITE_ATTEMPTS", 3)
    monkeypatch.setattr(databases, "random", SimpleNamespace(uniform=draw))
    runs = []

    def work(connection: sa.Connection) -> None:
        runs.append(1)
        connection.execute(sa.text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$"))

    with pytest.raises(DatabaseConflict) as refused:
        counters.write(work)
    assert len(runs) == 3
    assert refused.value.retry_after is not None
    assert 0 < pauses[0] < pauses[1] < pauses[2] < 1  # at most, and longer each time


@pytest.mark.parametrize("state", ["40P01", "40001"])
def test_what_lost_to_another_leaves_nothing_of_its_first_run(counters: Database, state: str) -> None:
    runs = []

    def work(connection: sa.Connection) -> None:
        runs.append(1)
        add(connection, "a")
        if len(runs) == 1:
            connection.execute(sa.text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$"))

    counters.write(work)
    assert values(counters) == [1, 0]


@pytest.mark.parametrize("state", ["23505", "55P03", "57014"])
def test_no_other_failure_is_tried_again(counters: Database, state: str) -> None:
    runs = []

    def work(connection: sa.Connection) -> None:
        runs.append(1)
        connection.execute(sa.text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$"))

    with pytest.raises(DBAPIError):
        counters.write(work)
    assert len(runs) == 1


def test_one_statement_of_its_own_is_committed_when_it_has_run(counters: Database) -> None:
    def work(connection: sa.Connection) -> None:
        add(connection, "a")
        raise ValueError("too late")

    with pytest.raises(ValueError, match="too late"):
        counters.write(work, one_statement=True)
    assert values(counters) == [1, 0]


@pytest.mark.parametrize("harm", ["ALTER TABLE counters ALTER value TYPE bigint", "DEALLOCATE ALL", "DISCARD ALL"])
def test_no_call_fails_where_what_was_prepared_is_gone_or_fits_the_tables_no_longer(
    counters: Database, server: PostgreSQL, harm: str
) -> None:
    find = Statement(counters, sa.select(COUNTERS).where(COUNTERS.c.name == sa.bindparam("name_")))
    add_one = Statement(
        counters, sa.update(COUNTERS).values(value=COUNTERS.c.value + 1).where(COUNTERS.c.name == sa.bindparam("name_"))
    )

    def read(name: str) -> int:
        with counters.read() as connection:
            return int(find.first(connection, name_=name).value)  # type: ignore[union-attr]

    def find_and_add(connection: sa.Connection) -> None:
        find.first(connection, name_="a")
        add_one.send(connection, name_="a")

    calls: list[Callable[[], object]] = [
        lambda: read("a"),
        lambda: counters.write(find_and_add),
        lambda: counters.write(lambda connection: add_one.run(connection, name_="b"), one_statement=True),
    ]
    for call in calls:
        for each in calls:
            each()  # prepares its statements
        before = [read("a"), read("b")]
        if harm.startswith("ALTER"):
            new = "bigint" if calls.index(call) % 2 == 0 else "integer"
            server.execute(harm.replace("bigint", new), database=str(sa.make_url(counters.name).database))
        else:
            with counters.read() as connection:
                connection.exec_driver_sql(harm)
        call()
        added = [int(call is calls[1]), int(call is calls[2])]
        assert [read("a"), read("b")] == [value + more for value, more in zip(before, added, strict=True)]
        with counters.read() as connection:  # whoever deallocates may have reset the timeouts as well
            assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "3s"


def test_one_that_rolls_back_a_part_of_itself_leaves_a_connection_that_serves_on(counters: Database) -> None:
    find = Statement(counters, sa.select(COUNTERS).where(COUNTERS.c.name == sa.bindparam("name_")))

    def work(connection: sa.Connection) -> None:
        find.first(connection, name_="a")
        for _ in range(10):  # after some, psycopg would prepare it
            connection.execute(sa.select(COUNTERS)).all()
        with suppress(KeyError), connection.begin_nested():
            add(connection, "a")
            raise KeyError
        connection.execute(sa.select(COUNTERS)).all()
        add(connection, "b")

    counters.write(work)
    with counters.read() as connection:
        session = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
        assert find.first(connection, name_="a") == ("a", 0)
    with counters.read() as connection:
        assert connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one() == session
    assert values(counters) == [0, 1]


def test_what_is_sent_outside_of_a_local_transaction_is_not_left_to_who_uses_the_connection_next(
    counters: Database,
) -> None:
    update = Statement(counters, sa.update(COUNTERS).where(COUNTERS.c.name == sa.bindparam("name_")))
    insert = Statement(counters, sa.insert(COUNTERS))
    counters.write(lambda connection: update.send(connection, name_="b", value=7), one_statement=True)
    with closing(Database(counters.backend.reader.url.render_as_string(hide_password=False))) as other:
        assert values(other) == [0, 7]
    with pytest.raises(IntegrityError):
        counters.write(lambda connection: insert.send(connection, name="b", value=0), one_statement=True)
    assert values(counters) == [0, 7]
