"""Hot statements do on the driver what SQLAlchemy does with them, on each engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, ProgrammingError

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.statements import Statement
from tests.databases.postgresql import PostgreSQL

THINGS = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("key", sa.String(20), primary_key=True),
    sa.Column("number", sa.BigInteger, unique=True),
    sa.Column("flag", sa.Boolean, nullable=False, default=False),
    sa.Column("labels", sa.JSON, nullable=False, default=dict),
    sa.Column("content", sa.LargeBinary),
    sa.Column("text", sa.Text, nullable=False, server_default="none"),
    sa.Column("change", sa.String(20), default="made", onupdate="changed"),
)
FULL = {"key": "a", "number": 2**40, "flag": True, "labels": {"b": [1, None]}, "content": b"\0\xff", "text": "é\n%s ?"}
ALL = sa.select(THINGS).order_by(THINGS.c.key)


@pytest.fixture
def database(new_url: str) -> Iterator[Database]:
    with closing(Database(new_url, connections=2)) as database:
        database.check()
        database.write(lambda connection: THINGS.metadata.create_all(connection))
        yield database


@pytest.fixture
def insert(database: Database) -> Statement:
    return Statement(database, sa.insert(THINGS))


def run(database: Database, statement: Statement, **values: Any) -> int:
    return database.write(lambda connection: statement.run(connection, **values))


def rows(database: Database, query: Any = ALL, **values: Any) -> list[Any]:
    """As a statement and SQLAlchemy both read them."""
    with database.read() as connection:
        found = Statement(database, query).all(connection, **values)
        assert found == connection.execute(query, values).all()
        return found


def test_values_of_every_type_are_stored_and_read_as_sqlalchemy_does(database: Database, insert: Statement) -> None:
    assert run(database, insert, **FULL) == 1
    (row,) = rows(database)
    assert row._asdict() == {**FULL, "change": "made"}
    assert (row.flag, row[0]) == (True, "a")


def test_numbers_with_fractions_are_what_their_columns_say(database: Database) -> None:
    columns: dict[str, sa.types.TypeEngine[Any]] = {
        "double": sa.Double(),
        "single": sa.REAL(),
        "float": sa.Float(asdecimal=True),
        "exact": sa.Numeric(5, 2),
        "about": sa.Numeric(5, 2, asdecimal=False),
    }
    numbers = sa.Table("numbers", sa.MetaData(), *(sa.Column(name, type_) for name, type_ in columns.items()))
    database.write(lambda connection: numbers.metadata.create_all(connection))
    values = {"double": 0.1, "single": 0.5, "float": Decimal("0.5"), "exact": Decimal("1.25"), "about": 1.25}
    run(database, Statement(database, sa.insert(numbers)), **values)
    (row,) = rows(database, sa.select(numbers))
    assert [(type(value), value) for value in row] == [(type(value), value) for value in values.values()]


def test_what_an_insert_leaves_out_has_its_default(database: Database, insert: Statement) -> None:
    run(database, insert, key="a")
    assert rows(database) == [("a", None, False, {}, None, "none", "made")]


def test_an_update_sets_what_it_is_given_values_of(database: Database, insert: Statement) -> None:
    run(database, insert, **FULL)
    update = Statement(database, sa.update(THINGS).where(THINGS.c.key == sa.bindparam("key_")))
    assert run(database, update, key_="a", number=None, labels={}) == 1
    assert run(database, update, key_="a", flag=False) == 1
    assert run(database, update, key_="nobody", flag=False) == 0
    assert rows(database) == [("a", None, False, {}, FULL["content"], FULL["text"], "changed")]


def test_the_first_row_is_none_where_there_is_none(database: Database, insert: Statement) -> None:
    find = Statement(database, sa.select(THINGS.c.text).where(THINGS.c.key == sa.bindparam("key")).limit(1))
    run(database, insert, **FULL)
    with database.read() as connection:
        assert find.first(connection, key="a") == (FULL["text"],)
        assert find.first(connection, key="b") is None


def test_what_is_new_is_inserted_once_and_the_count_tells(database: Database) -> None:
    insert = Statement(database, database.insert_new(THINGS))
    assert [run(database, insert, key="a") for _ in "12"] == [1, 0]


def test_many_are_sent_in_one_go(database: Database, insert: Statement) -> None:
    many = [{"key": key, "labels": {key: True}} for key in "abc"]
    delete = Statement(database, sa.delete(THINGS).where(THINGS.c.key == sa.bindparam("key_")))
    database.write(lambda connection: insert.send_each(connection, many))
    assert many[0] == {"key": "a", "labels": {"a": True}}
    assert [row.labels for row in rows(database)] == [{key: True} for key in "abc"]
    database.write(lambda connection: delete.send_each(connection, [{"key_": key} for key in "abx"]))
    database.write(lambda connection: delete.send_each(connection, []))
    assert [row.key for row in rows(database)] == ["c"]


def test_rows_that_a_change_returns_are_read_like_any(database: Database, insert: Statement) -> None:
    run(database, insert, **FULL)
    update = Statement(
        database, sa.update(THINGS).where(THINGS.c.flag == sa.true()).values(flag=False).returning(THINGS)
    )
    (row,) = database.write(update.all)
    assert (row.flag, row.labels) == (False, FULL["labels"])


@pytest.mark.parametrize("keys", [[], ["a"], ["c", "a", "x", "a"], [str(number) for number in range(2000)] + ["b"]])
def test_one_of_a_list_is_found_however_long_the_list(database: Database, insert: Statement, keys: list[str]) -> None:
    database.write(lambda connection: insert.send_each(connection, [{"key": k, "number": ord(k)} for k in "abc"]))
    query = ALL.where(database.one_of(THINGS.c.key, "keys"))
    assert [row.key for row in rows(database, query, keys=keys)] == sorted({*keys} & {*"abc"})
    numbers = {"numbers": [ord(key[0]) for key in keys]}
    by_number = ALL.where(database.one_of(THINGS.c.number, "numbers"))
    assert [row.key for row in rows(database, by_number, **numbers)] == sorted({*keys} & {*"abc"})


def test_a_statement_takes_part_in_the_local_transaction(database: Database, insert: Statement) -> None:
    def work(connection: sa.Connection) -> None:
        insert.run(connection, key="a")
        assert connection.execute(ALL).one().key == "a"
        raise KeyError

    with pytest.raises(KeyError):
        database.write(work)
    assert rows(database) == []


def test_what_is_sent_is_there_for_the_next_statement_and_is_committed(database: Database, insert: Statement) -> None:
    def work(connection: sa.Connection, key: str) -> list[str]:
        insert.send(connection, key=key)
        insert.send_each(connection, [{"key": key * times} for times in (2, 3)])
        return [row.key for row in connection.execute(ALL)] if key == "a" else []

    assert database.write(lambda connection: work(connection, "a")) == ["a", "aa", "aaa"]
    database.write(lambda connection: work(connection, "b"))
    assert [row.key for row in rows(database)] == ["a", "aa", "aaa", "b", "bb", "bbb"]


def test_what_is_sent_and_fails_leaves_nothing_of_its_local_transaction(database: Database, insert: Statement) -> None:
    run(database, insert, key="a")

    def work(connection: sa.Connection) -> None:
        insert.send(connection, key="b")
        insert.send(connection, key="a")

    with pytest.raises(IntegrityError):
        database.write(work)
    assert [row.key for row in rows(database)] == ["a"]


def test_an_error_is_sqlalchemys_and_says_nothing_of_the_values(database: Database, insert: Statement) -> None:
    run(database, insert, key="a", number=1)
    for fail in (insert.send, insert.run):
        with pytest.raises(IntegrityError) as caught:
            database.write(partial(fail, key="hunter2", number=1))
        assert "hunter2" not in str(caught.value)
    assert "INSERT INTO things" in str(caught.value)
    with pytest.raises(DBAPIError), database.read() as connection:
        Statement(database, sa.select(sa.table("nowhere", sa.column("key")))).all(connection)
    assert rows(database) == [("a", 1, False, {}, None, "none", "made")]


def test_names_that_are_missing_or_unknown_and_lists_to_expand_are_refused(database: Database) -> None:
    by_key = sa.select(THINGS).where(THINGS.c.key == sa.bindparam("key"))
    expanding = sa.select(THINGS).where(THINGS.c.key.in_(sa.bindparam("keys", expanding=True)))
    with database.read() as connection:
        with pytest.raises(InvalidRequestError, match="'key'"):
            Statement(database, by_key).all(connection)
        with pytest.raises(TypeError, match="no parameter nickname"):
            Statement(database, by_key).all(connection, key="a", nickname="b")
        with pytest.raises(TypeError, match="expands the list keys"):
            Statement(database, expanding).all(connection, keys=["a"])


def test_a_value_that_the_driver_cannot_take_is_an_error_of_the_database(database: Database, insert: Statement) -> None:
    with pytest.raises(ProgrammingError):
        run(database, insert, key=object())


def test_a_connection_that_is_broken_is_not_used_again(server: PostgreSQL, empty_database: str) -> None:
    with closing(Database(server.url(empty_database), connections=1)) as database:
        session = Statement(database, sa.select(sa.func.pg_backend_pid().label("pid")))
        with database.read() as connection:
            server.execute(f"SELECT pg_terminate_backend({session.all(connection)[0].pid}, 5000)")
            with pytest.raises(DBAPIError) as caught:
                session.first(connection)
        assert caught.value.connection_invalidated
        with database.read() as connection:
            assert session.first(connection)
