"""Failures of databases, and how to have them: on a real PostgreSQL, a real SQLite, and where neither fails on request,
by raising what its driver would. Each has its key in the chassis's table, and what its caller is told.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import sqlalchemy as sa
from sqlalchemy import event, orm

from tests.eventually import eventually

SECRET = "hunter2"
"""What nobody but the database should see."""
TABLES = (
    "CREATE TABLE parents"
    " (id TEXT PRIMARY KEY, email VARCHAR(20) UNIQUE, shoe_size INTEGER NOT NULL CHECK (shoe_size < 200))",
    "CREATE TABLE children (parent TEXT REFERENCES parents)",
    "CREATE TABLE strict_children (parent TEXT REFERENCES parents ON DELETE RESTRICT)",
    "INSERT INTO parents VALUES ('ada', 'ada@example', 36), ('bob', 'bob@example', 40), ('eve', 'eve@example', 50)",
    "INSERT INTO children VALUES ('ada')",
    "INSERT INTO strict_children VALUES ('bob')",
)
"""What both databases have."""

Provoke = Callable[[sa.Engine], None]


@dataclass(frozen=True)
class Told:
    """What a caller learns. `retry_after` in seconds, None where there is no RetryInfo."""

    code: grpc.StatusCode
    reason: str
    retry_after: float | None = None


DUPLICATE = Told(grpc.StatusCode.ALREADY_EXISTS, "DUPLICATE_VALUE")
VIOLATED = Told(grpc.StatusCode.FAILED_PRECONDITION, "CONSTRAINT_VIOLATED")
INVALID = Told(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VALUE")
CONFLICT = Told(grpc.StatusCode.ABORTED, "DATABASE_CONFLICT", 0.05)
UNAVAILABLE = Told(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", 1.0)
INTERNAL = Told(grpc.StatusCode.INTERNAL, "INTERNAL")


def statements(*sqls: str, **values: object) -> Provoke:
    """Runs these, each by itself, on one connection; the last one fails."""

    def provoke(engine: sa.Engine) -> None:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            try:
                for sql in sqls:
                    connection.execute(sa.text(sql), values)
            finally:
                connection.invalidate()  # others must not find it as this one leaves it

    return provoke


# PostgreSQL


def update_what_another_transaction_updated(engine: sa.Engine) -> None:
    with engine.execution_options(isolation_level="REPEATABLE READ").connect() as one, engine.connect() as other:
        one.execute(sa.text("SELECT * FROM parents"))
        other.execute(sa.text("UPDATE parents SET shoe_size = shoe_size + 1 WHERE id = 'eve'"))
        other.commit()
        one.execute(sa.text("UPDATE parents SET shoe_size = shoe_size + 1 WHERE id = 'eve'"))


def lock_in_two_orders(engine: sa.Engine) -> None:
    lock = sa.text("SELECT * FROM parents WHERE id = :id FOR UPDATE")
    with engine.connect() as one, engine.connect() as other:
        one.execute(sa.text("SET deadlock_timeout = '20ms'"))  # so that this one finds it, and loses
        one.execute(lock, {"id": "ada"})
        other.execute(lock, {"id": "bob"})
        waiting = threading.Thread(target=other.execute, args=(lock, {"id": "ada"}))
        waiting.start()
        with engine.connect() as third:
            waits = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            assert eventually(lambda: third.execute(waits).scalar_one() == 1)
        try:
            one.execute(lock, {"id": "bob"})
        finally:
            one.rollback()
            waiting.join()
            one.invalidate()


def lock_what_is_locked(engine: sa.Engine) -> None:
    with engine.connect() as one, engine.connect() as other:
        other.execute(sa.text("SELECT * FROM parents WHERE id = 'ada' FOR UPDATE"))
        one.execute(sa.text("SELECT * FROM parents WHERE id = 'ada' FOR UPDATE NOWAIT"))


def idle_in_a_transaction(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text("SET idle_in_transaction_session_timeout = 20"))
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        alive = sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as other:
            assert eventually(lambda: other.execute(alive, {"pid": pid}).scalar_one() == 0)
        connection.execute(sa.text("SELECT * FROM parents"))


def connect_to_nobody(_engine: sa.Engine) -> None:
    sa.create_engine("postgresql+psycopg://hunter2@127.0.0.1:1/parents").connect()


def connect_once_too_often(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE ROLE hunter2 LOGIN CONNECTION LIMIT 0"))
    sa.create_engine(engine.url.set(username=SECRET)).connect()


POSTGRESQL: Mapping[str, tuple[str, Provoke, Told]] = {
    "unique": (
        "23505",
        statements("INSERT INTO parents VALUES (:id, 'x', 1)", "INSERT INTO parents VALUES (:id, 'y', 1)", id=SECRET),
        DUPLICATE,
    ),
    "a parent that is not there": ("23503", statements("INSERT INTO children VALUES (:id)", id="hunter2?"), VIOLATED),
    "a parent that has a child": ("23503", statements("DELETE FROM parents WHERE id = 'ada'"), VIOLATED),
    "a parent that must stay": ("23001", statements("DELETE FROM parents WHERE id = 'bob'"), VIOLATED),
    "exclusion": (
        "23P01",
        statements(
            "CREATE TEMPORARY TABLE shoe_sizes (shoe_size INT4RANGE, EXCLUDE USING gist (shoe_size WITH &&))",
            "INSERT INTO shoe_sizes VALUES ('[1,5)')",
            "INSERT INTO shoe_sizes VALUES ('[4,6)')",
        ),
        VIOLATED,
    ),
    "not null": ("23502", statements("INSERT INTO parents VALUES (:id, 'z', NULL)", id="hunter2!"), INVALID),
    "check": ("23514", statements("INSERT INTO parents VALUES (:id, 'z', 200)", id="hunter2!"), INVALID),
    "too long": ("22001", statements("UPDATE parents SET email = :email", email=SECRET * 4), INVALID),
    "out of range": (
        "22003",
        statements("UPDATE parents SET shoe_size = :shoe_size", shoe_size=3_000_000_000),
        INVALID,
    ),
    "no date": ("22007", statements("SELECT CAST(:date AS DATE)", date=SECRET), INVALID),
    "no such date": ("22008", statements("SELECT CAST(:date AS DATE)", date="2026-99-99"), INVALID),
    "no UTF-8": ("22021", statements("SELECT convert_from(:bytes, 'UTF8')", bytes=b"\xff"), INVALID),
    "no number": ("22P02", statements("SELECT CAST(:shoe_size AS INTEGER)", shoe_size=SECRET), INVALID),
    "NUL in JSON": ("22P05", statements("SELECT CAST(:json AS JSONB)", json='"\\u0000hunter2"'), INVALID),
    "too long for an index": (
        "54000",
        statements("INSERT INTO parents VALUES (:id, 'z', 1)", id=os.urandom(6000).hex()),
        INVALID,
    ),
    "NUL": (
        "sqlalchemy.exc.DataError",
        statements("UPDATE parents SET email = :email", email=f"{SECRET}\0"),
        INVALID,
    ),
    "serialization": ("40001", update_what_another_transaction_updated, CONFLICT),
    "deadlock": ("40P01", lock_in_two_orders, CONFLICT),
    "locked": ("55P03", lock_what_is_locked, CONFLICT),
    "statement timeout": ("57014", statements("SET statement_timeout = 20", "SELECT pg_sleep(5)"), UNAVAILABLE),
    "terminated": ("57", statements("SELECT pg_terminate_backend(pg_backend_pid())"), UNAVAILABLE),
    "idle in a transaction": ("25P03", idle_in_a_transaction, UNAVAILABLE),
    "read only": (
        "25006",
        statements("SET default_transaction_read_only = on", "DELETE FROM parents WHERE id = 'nobody'"),
        UNAVAILABLE,
    ),
    "nobody listens": ("sqlalchemy.exc.OperationalError", connect_to_nobody, UNAVAILABLE),
    "too many connections": ("sqlalchemy.exc.OperationalError", connect_once_too_often, UNAVAILABLE),
    "no such table": ("42P01", statements("SELECT hunter2 FROM grandparents"), INTERNAL),
    "division by zero": ("22012", statements("SELECT 1 / 0 AS hunter2"), INTERNAL),
    "a trigger's own": (
        "P0001",
        statements("DO $$ BEGIN RAISE EXCEPTION 'hunter2 is not among parents'; END $$"),
        INTERNAL,
    ),
}

# SQLite


def write_after_another_wrote(engine: sa.Engine) -> None:
    with engine.connect() as one, engine.connect() as other:
        one.exec_driver_sql("BEGIN")
        one.exec_driver_sql("SELECT * FROM parents")
        other.exec_driver_sql("UPDATE parents SET shoe_size = shoe_size + 1")
        try:
            one.exec_driver_sql("UPDATE parents SET shoe_size = shoe_size + 1")
        finally:
            one.exec_driver_sql("ROLLBACK")


def write_while_another_writes(engine: sa.Engine) -> None:
    with engine.connect() as one, engine.connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            one.exec_driver_sql("UPDATE parents SET shoe_size = shoe_size + 1")
        finally:
            other.exec_driver_sql("ROLLBACK")


def read_what_another_writes(_engine: sa.Engine) -> None:
    url = "sqlite:///file:parents?mode=memory&cache=shared&uri=true"
    engine = sa.create_engine(url, poolclass=sa.pool.QueuePool, hide_parameters=True)
    prepare_sqlite(engine)
    with engine.connect() as one, engine.connect() as other:
        other.exec_driver_sql("CREATE TABLE parents (id)")
        other.exec_driver_sql("BEGIN IMMEDIATE")
        other.exec_driver_sql("INSERT INTO parents VALUES ('hunter2')")
        one.exec_driver_sql("SELECT * FROM parents")


def interrupted(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: 1, 1)
        try:
            connection.exec_driver_sql("SELECT * FROM parents ORDER BY shoe_size")
        finally:
            driver.set_progress_handler(None, 0)


def fill_the_disk(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        try:
            connection.exec_driver_sql("UPDATE parents SET id = 'hunter2' || zeroblob(1000000) WHERE id = 'eve'")
        finally:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")


def open_nothing(_engine: sa.Engine) -> None:
    sa.create_engine("sqlite:////hunter2/parents.sqlite3").connect()


def read_what_was_overwritten(engine: sa.Engine) -> None:
    file = Path(f"{engine.url.database}.damaged")
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript("CREATE TABLE parents (id TEXT); INSERT INTO parents VALUES ('hunter2')")
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    with file.open("r+b") as opened:
        opened.seek(page_size)
        opened.write(b"\xff" * page_size)
    sa.create_engine(f"sqlite:///{file}", hide_parameters=True).connect().exec_driver_sql("SELECT * FROM parents")


def read_what_is_no_database(engine: sa.Engine) -> None:
    file = Path(f"{engine.url.database}.text")
    file.write_text("hunter2 " * 100)
    sa.create_engine(f"sqlite:///{file}", hide_parameters=True).connect().exec_driver_sql("SELECT * FROM parents")


def wait_for_a_connection(engine: sa.Engine) -> None:
    small = sa.create_engine(engine.url, poolclass=sa.pool.QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01)
    with small.connect():
        small.connect()


def flush_what_another_changed(engine: sa.Engine) -> None:
    class Base(orm.DeclarativeBase):
        pass

    class Parent(Base):
        __tablename__ = "parents"
        id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
        shoe_size: orm.Mapped[int] = orm.mapped_column()
        __mapper_args__ = {"version_id_col": shoe_size}  # noqa: RUF012

    with orm.Session(engine) as session:
        parent = session.get_one(Parent, "eve")
        with engine.connect() as other:
            other.exec_driver_sql("UPDATE parents SET shoe_size = shoe_size + 7 WHERE id = 'eve'")
        parent.id = SECRET
        session.flush()


SQLITE: Mapping[str, tuple[int | str, Provoke, Told]] = {
    "unique": (
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        statements("INSERT INTO parents VALUES (:id, 'ada@example', 1)", id=SECRET),
        DUPLICATE,
    ),
    "primary key": (
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        statements("INSERT INTO parents VALUES ('ada', :email, 1)", email=SECRET),
        DUPLICATE,
    ),
    "row id": (
        sqlite3.SQLITE_CONSTRAINT_ROWID,
        statements("INSERT INTO children (rowid) VALUES (:id)", "INSERT INTO children (rowid) VALUES (:id)", id=99),
        DUPLICATE,
    ),
    "a parent that is not there": (
        sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
        statements("INSERT INTO children VALUES (:id)", id=SECRET),
        VIOLATED,
    ),
    "a parent that has a child": (
        sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
        statements("DELETE FROM parents WHERE id = 'ada'"),
        VIOLATED,
    ),
    "a parent that must stay": (
        sqlite3.SQLITE_CONSTRAINT_TRIGGER,
        statements("DELETE FROM parents WHERE id = 'bob'"),
        VIOLATED,
    ),
    "not null": (
        sqlite3.SQLITE_CONSTRAINT_NOTNULL,
        statements("INSERT INTO parents VALUES (:id, 'z', NULL)", id=SECRET),
        INVALID,
    ),
    "check": (
        sqlite3.SQLITE_CONSTRAINT_CHECK,
        statements("INSERT INTO parents VALUES (:id, 'z', 200)", id=SECRET),
        INVALID,
    ),
    "type of a strict table": (
        3091,
        statements(
            "CREATE TEMPORARY TABLE shoe_sizes (shoe_size INTEGER) STRICT",
            "INSERT INTO shoe_sizes VALUES (:shoe_size)",
            shoe_size=SECRET,
        ),
        INVALID,
    ),
    "type of a row id": (
        sqlite3.SQLITE_MISMATCH,
        statements("INSERT INTO children (rowid) VALUES (:id)", id=SECRET),
        INVALID,
    ),
    "too big": (sqlite3.SQLITE_TOOBIG, statements("SELECT zeroblob(2000000000) AS parents"), INVALID),
    "snapshot": (sqlite3.SQLITE_BUSY_SNAPSHOT, write_after_another_wrote, CONFLICT),
    "stale": ("sqlalchemy.orm.exc.StaleDataError", flush_what_another_changed, CONFLICT),
    "interrupted": (sqlite3.SQLITE_INTERRUPT, interrupted, UNAVAILABLE),
    "busy": (sqlite3.SQLITE_BUSY, write_while_another_writes, UNAVAILABLE),
    "locked": (sqlite3.SQLITE_LOCKED, read_what_another_writes, UNAVAILABLE),
    "read only": (
        sqlite3.SQLITE_READONLY,
        statements("PRAGMA query_only = ON", "UPDATE parents SET email = :email", email=SECRET),
        UNAVAILABLE,
    ),
    "full": (sqlite3.SQLITE_FULL, fill_the_disk, UNAVAILABLE),
    "a damaged file": (sqlite3.SQLITE_CORRUPT, read_what_was_overwritten, UNAVAILABLE),
    "another kind of file": (sqlite3.SQLITE_NOTADB, read_what_is_no_database, UNAVAILABLE),
    "cannot open": (sqlite3.SQLITE_CANTOPEN, open_nothing, UNAVAILABLE),
    "no connection is free": ("sqlalchemy.exc.TimeoutError", wait_for_a_connection, UNAVAILABLE),
    "no such table": (sqlite3.SQLITE_ERROR, statements("SELECT hunter2 FROM grandparents"), INTERNAL),
}

# What neither database does on request.


class FromDriver(Exception):
    """What a driver would raise."""

    def __init__(self, **codes: str | int) -> None:
        super().__init__(f"{SECRET} of parents")
        vars(self).update(codes)


def fake(**codes: str | int) -> Provoke:
    def provoke(_engine: sa.Engine) -> None:
        raise sa.exc.DatabaseError("INSERT INTO parents", {}, FromDriver(**codes), hide_parameters=True)

    return provoke


def lose_the_connection(_engine: sa.Engine) -> None:
    lost = FromDriver(sqlstate="XX000")
    raise sa.exc.DatabaseError("INSERT INTO parents", {}, lost, connection_invalidated=True)


FAKED: Mapping[str, tuple[int | str, Provoke, Told]] = {
    "connection failure": ("08", fake(sqlstate="08006"), UNAVAILABLE),
    "disk full": ("53", fake(sqlstate="53100"), UNAVAILABLE),
    "input and output": ("58", fake(sqlstate="58030"), UNAVAILABLE),
    "reading fails": (sqlite3.SQLITE_IOERR, fake(sqlite_errorcode=sqlite3.SQLITE_IOERR_READ), UNAVAILABLE),
    "locking fails": (sqlite3.SQLITE_PROTOCOL, fake(sqlite_errorcode=sqlite3.SQLITE_PROTOCOL), UNAVAILABLE),
    "the connection is lost": ("XX000", lose_the_connection, UNAVAILABLE),
    "damaged data": ("XX001", fake(sqlstate="XX001"), UNAVAILABLE),
    "a damaged index": ("XX002", fake(sqlstate="XX002"), UNAVAILABLE),
    "nothing known": ("", fake(), INTERNAL),
}


def prepare_sqlite(engine: sa.Engine) -> None:
    """As the servers do: transactions begin where the code says so."""

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
