"""A query whose caller has left ends, in the database too, and its connection can be used again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from pathlib import Path

import pytest
import sqlalchemy as sa

from handfast.server.chassis.call import CURRENT, Call, Method, Pool
from handfast.server.chassis.cancellation import Canceller, check_active, shield
from handfast.server.chassis.data import postgresql_session
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.postgresql_session import cancellable
from handfast.server.chassis.errors import CallCancelled, CallDeadlineExceeded
from handfast.server.process.settings import sqlite_url
from tests.databases.postgresql import PostgreSQL
from tests.eventually import PATIENCE, eventually

FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n WHERE i < 0"
METHOD = Method("/s/m", "s", "m", "unary", "s", Pool("calls", 1))


@pytest.fixture
def database(database_urls: dict[str, str], tmp_path: Path) -> Iterator[Database]:
    url = database_urls.get("HANDFAST_USERS_DATABASE_URL", sqlite_url(tmp_path / "test.sqlite3"))
    database = Database(url, connections=2)
    database.check()
    yield database
    database.close()


@pytest.fixture
def call(canceller: Canceller) -> Call:
    call = Call(METHOD, METHOD.path)
    canceller.watch(call)
    return call


def serving(call: Call, pool: ThreadPoolExecutor, database: Database, entered: threading.Event) -> Future[None]:
    """Runs the query within the call, in a thread of the pool."""

    def serve() -> None:
        CURRENT.set(call)
        with database.read() as connection:
            entered.set()
            connection.exec_driver_sql(FOREVER).one()

    return pool.submit(copy_context().run, serve)


def test_a_call_that_is_over_ends_its_query(database: Database, canceller: Canceller, call: Call) -> None:
    entered = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = serving(call, pool, database, entered)
        assert entered.wait(5)
        canceller.grpc_ended(call)
        with pytest.raises(sa.exc.OperationalError):
            running.result(10)
    with database.read() as connection:
        assert connection.execute(sa.select(sa.literal(1))).scalar_one() == 1
        if database.dialect == "postgresql":
            active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'WITH RECURSIVE%%'"
            assert eventually(lambda: connection.exec_driver_sql(active).scalar_one() == 0)


def test_a_deadline_of_the_servers_own_ends_the_query_too(database: Database, call: Call) -> None:
    call.deadline_monotonic_s = 0.0  # of a clock that began at the start of the machine
    entered = threading.Event()
    with ThreadPoolExecutor(1) as pool, pytest.raises((sa.exc.OperationalError, CallDeadlineExceeded)):
        serving(call, pool, database, entered).result(10)


def test_a_call_that_waits_for_its_turn_to_write_gives_up(database: Database, canceller: Canceller, call: Call) -> None:
    table = sa.table("interrupted", sa.column("id"))
    ddl = "CREATE TABLE interrupted (id INTEGER PRIMARY KEY)"
    database.write(lambda connection: connection.exec_driver_sql(ddl))
    database.write(lambda connection: connection.execute(sa.insert(table), {"id": 1}))
    update = sa.update(table).values(id=1)

    def write() -> None:
        CURRENT.set(call)
        database.write(lambda connection: connection.execute(update))

    with ThreadPoolExecutor(1) as pool:

        def hold(connection: sa.Connection) -> None:
            connection.execute(update)
            waiting = pool.submit(copy_context().run, write)
            assert eventually(lambda: call.callbacks is not None and bool(call.callbacks.all))
            canceller.grpc_ended(call)
            with pytest.raises((sa.exc.OperationalError, CallCancelled)):
                waiting.result(10)

        database.write(hold)
    database.write(lambda connection: connection.exec_driver_sql("DROP TABLE interrupted"))


def test_nothing_is_committed_for_a_call_that_is_over_but_for_what_has_to_be(
    database: Database, canceller: Canceller, call: Call
) -> None:
    canceller.grpc_ended(call)

    def serve() -> list[int]:
        CURRENT.set(call)
        one = sa.select(sa.literal(1))
        with pytest.raises(CallCancelled):
            database.write(lambda connection: connection.execute(one).scalar_one())
        with pytest.raises(CallCancelled):
            check_active()
        with shield():
            return [database.write(lambda connection: connection.execute(one).scalar_one())]

    assert copy_context().run(serve) == [1]


def test_a_connection_that_is_shut_down_in_the_moment_in_which_it_is_answered_is_not_used_again(
    server: PostgreSQL, served: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_session, "GIVE_UP_AFTER_S", 0)

    def be_answered_and_given_up(connection: sa.Connection) -> int:
        number: int = connection.execute(sa.select(sa.literal(1))).scalar_one()
        assert served.callbacks is not None
        (wake,) = served.callbacks.all
        wake()
        return number

    with closing(Database(server.emptied())) as database:
        with database.read():  # opens a connection
            database.backend.replicates = True  # so commits are given up, and not cancelled
        assert database.write(be_answered_and_given_up, one_statement=True) == 1
        assert database.write(lambda connection: connection.execute(sa.select(sa.literal(2))).scalar_one()) == 2
        with database.read() as connection:
            assert be_answered_and_given_up(connection) == 1
        with database.read() as connection:
            assert connection.execute(sa.select(sa.literal(2))).scalar_one() == 2


class Cancelled:
    """A connection to PostgreSQL that takes its time to be cancelled."""

    def __init__(self) -> None:
        self.begun, self.ended, self.go_on = 0, 0, threading.Event()

    def cancel_safe(self, timeout: float) -> None:
        self.begun += 1
        self.go_on.wait(PATIENCE)
        self.ended += 1


@pytest.fixture
def served(call: Call) -> Iterator[Call]:
    """The call, which the test serves."""
    token = CURRENT.set(call)
    yield call
    CURRENT.reset(token)


def test_a_query_of_postgresql_is_cancelled_by_one_at_a_time_and_by_none_once_it_was_left(served: Call) -> None:
    driver = Cancelled()
    with cancellable(driver):
        assert served.callbacks is not None
        (wake,) = served.callbacks.all
        wake()
        assert eventually(lambda: driver.begun == 1)
        wake()  # which waits for nothing
        driver.go_on.set()
        assert eventually(lambda: driver.ended == 1)
        assert driver.begun == 1

        def cancelled_again() -> bool:
            wake()
            return driver.ended > 1

        assert eventually(cancelled_again)
    ended = driver.ended
    wake()
    with cancellable(driver):
        assert driver.ended == driver.begun == ended


def test_who_leaves_a_query_of_postgresql_waits_for_its_cancelling(call: Call) -> None:
    driver, left = Cancelled(), threading.Event()

    def serve() -> None:
        CURRENT.set(call)
        with cancellable(driver):
            assert call.callbacks is not None
            call.callbacks.all[0]()
            assert eventually(lambda: driver.begun == 1)
        left.set()

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(copy_context().run, serve)
        assert eventually(lambda: driver.begun == 1)
        assert not left.is_set()
        driver.go_on.set()
        serving.result(PATIENCE)
    assert driver.ended == 1
