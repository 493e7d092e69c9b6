"""What a caller is told of each failure of a database, and what the log."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from google.rpc import error_details_pb2

from handfast.server.chassis.call import current
from handfast.server.chassis.errors.database import DATABASE_FAILURES
from handfast.server.process.settings import sqlite_url
from handfast.users.v1 import users_pb2
from tests.databases.postgresql import PostgreSQL
from tests.eventually import eventually

from .conftest import Failure, Running
from .database_failures import (
    FAKED,
    INTERNAL,
    POSTGRESQL,
    SECRET,
    SQLITE,
    TABLES,
    Provoke,
    Told,
    interrupted,
    prepare_sqlite,
)

NOT_FOR_CALLERS = (SECRET, "parents", "children", "shoe_size", "psycopg", "sqlite", "sqlalche", "INSERT", "Traceback")
LATE = Told(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


@pytest.fixture(scope="module")
def engines(server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, sa.Engine]]:
    folder = tmp_path_factory.mktemp("errors")
    server.execute("CREATE DATABASE errors")
    with contextlib.ExitStack() as stack:
        engines = {"postgresql": postgresql_engine(server), "sqlite": sqlite_engine(folder)}
        for engine in engines.values():
            stack.callback(engine.dispose)
            with engine.begin() as connection:
                for sql in TABLES:
                    connection.exec_driver_sql(sql)
        yield engines


def postgresql_engine(server: PostgreSQL) -> sa.Engine:
    return sa.create_engine(server.url("errors"), hide_parameters=True)


def sqlite_engine(folder: Path) -> sa.Engine:
    url = sqlite_url(folder / "errors.sqlite3")
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": 0, "check_same_thread": False})
    prepare_sqlite(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    return engine


CASES = [
    pytest.param(engine, *case, id=f"{engine}: {name}")
    for engine, cases in (("postgresql", POSTGRESQL), ("sqlite", SQLITE), ("sqlite", FAKED))
    for name, case in cases.items()
]


def failing(engine: sa.Engine, provoke: Provoke, raised: list[Exception]) -> Callable[..., None]:
    """A handler that lets through what `provoke` raises, and puts it in `raised`."""

    def behavior(_request: users_pb2.GetUserRequest, _context: grpc.ServicerContext) -> None:
        try:
            provoke(engine)
        except Exception as error:
            raised.append(error)
            raise

    return behavior


def told(failure: Failure) -> Told:
    delays = [each.retry_delay.ToTimedelta() for each in failure.details_of(error_details_pb2.RetryInfo)]
    return Told(failure.code, failure.info.reason, delays[0].total_seconds() if delays else None)


def stands_for(key: int | str, error: Exception) -> bool:
    """Whether `error` is what `key` of the table, or of its classes, means."""
    driver: Any = getattr(error, "orig", error)
    if isinstance(key, int):
        return key in (driver.sqlite_errorcode, driver.sqlite_errorcode & 0xFF)
    sqlstate = getattr(driver, "sqlstate", None) or ""
    names = [f"{each.__module__}.{each.__qualname__}" for each in type(error).__mro__]
    return key in (sqlstate, sqlstate[:2], *names)


@pytest.mark.parametrize(("engine", "key", "provoke", "expected"), CASES)
def test_a_failure_is_told_to_the_caller_without_a_word_of_the_database_and_to_the_log_whole(
    running: Running,
    engines: dict[str, sa.Engine],
    engine: str,
    key: int | str,
    provoke: Provoke,
    expected: Told,
) -> None:
    raised: list[Exception] = []
    failure = running.failure(failing(engines[engine], provoke, raised))
    (error,) = raised
    assert stands_for(key, error), error
    assert told(failure) == expected
    assert (failure.info.domain, dict(failure.info.metadata)) == ("handfast.users", {})
    assert failure.named_request_id == failure.request_id
    assert [word for word in NOT_FOR_CALLERS if word in failure.everything] == []
    line = running.call_log(failure.request_id)
    assert (line["error.reason"], line["error.domain"]) == (expected.reason, "handfast.users")
    said = line["exception" if expected is INTERNAL else "error.cause"]
    assert ("Traceback" in said) is (expected is INTERNAL)
    assert ("\n" in said) is (expected is INTERNAL)
    assert type(getattr(error, "orig", error)).__name__ in said


@pytest.mark.parametrize("name", [name for name, case in POSTGRESQL.items() if case[0][:2] in ("22", "23")])
def test_the_log_has_the_text_of_the_driver_without_the_values_that_it_quotes(
    running: Running, engines: dict[str, sa.Engine], name: str
) -> None:
    _key, provoke, _expected = POSTGRESQL[name]
    raised: list[Any] = []
    failure = running.failure(failing(engines["postgresql"], provoke, raised))
    line = running.call_log(failure.request_id)
    said = line.get("exception") or line["error.cause"]
    assert SECRET not in said.replace("AS hunter2", "")
    assert raised[0].statement in said
    if raised[0].orig.diag.constraint_name:
        assert raised[0].orig.diag.constraint_name in said


@pytest.mark.parametrize(
    ("sql", "value", "driver_error"),
    [
        ("SELECT CAST(CAST(:value AS text) AS integer)", f'1"{SECRET}"\n{SECRET}', "InvalidTextRepresentation"),
        ("INSERT INTO children VALUES (:value)", f"{SECRET} of nobody", "ForeignKeyViolation"),
    ],
    ids=["in the message", "in the detail"],
)
def test_the_log_has_no_quoted_value_either_of_a_cause_or_with_quotation_marks_in_it(
    running: Running, engines: dict[str, sa.Engine], sql: str, value: str, driver_error: str
) -> None:
    def provoke(engine: sa.Engine) -> None:
        try:
            with engine.connect() as connection:
                connection.execute(sa.text(sql), {"value": value})
        except sa.exc.DBAPIError as error:
            raise LookupError("no shoe") from error

    failure = running.failure(failing(engines["postgresql"], provoke, []))
    exception = running.call_log(failure.request_id)["exception"]
    assert SECRET not in exception
    assert driver_error in exception
    assert "LookupError: no shoe" in exception


@pytest.mark.parametrize(
    ("engine", "provoke"),
    [("postgresql", POSTGRESQL["statement timeout"][1]), ("sqlite", SQLITE["interrupted"][1])],
    ids=["postgresql", "sqlite"],
)
def test_a_statement_that_is_stopped_at_the_deadline_says_so(
    running: Running, engines: dict[str, sa.Engine], engine: str, provoke: Provoke
) -> None:
    def late(engine: sa.Engine) -> None:
        current().deadline_monotonic_s = time.monotonic()  # the caller, which would have given up by itself, waits on
        provoke(engine)

    failure = running.failure(failing(engines[engine], late, []))
    assert told(failure) == LATE
    assert "exception" not in running.call_log(failure.request_id)


def test_a_statement_that_is_stopped_as_the_caller_left_is_logged_as_cancelled(
    running: Running, engines: dict[str, sa.Engine]
) -> None:
    began = threading.Event()

    def behavior(_request: users_pb2.GetUserRequest, context: grpc.ServicerContext) -> None:
        began.set()
        assert eventually(lambda: not context.is_active())
        interrupted(engines["sqlite"])

    running.servicer.behavior = behavior
    reply: Any = running.stub.GetUser.future(users_pb2.GetUserRequest(), metadata=(("x-request-id", "stopped"),))
    assert began.wait(5)
    reply.cancel()
    line = running.call_log("stopped")
    assert (line["grpc.code"], line["error.reason"]) == ("Canceled", "CANCELLED")
    assert "exception" not in line


def test_every_row_of_the_table_is_tried() -> None:
    tried = {case[0] for cases in (POSTGRESQL, SQLITE, FAKED) for case in cases.values()}
    assert {key for failure in DATABASE_FAILURES for key in failure.keys} - tried == set()


def test_no_failure_stands_in_the_table_twice() -> None:
    keys = [key for failure in DATABASE_FAILURES for key in failure.keys]
    assert len(keys) == len(set(keys))
