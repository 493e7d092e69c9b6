"""PostgreSQL that is failed over, changed or paused: what could be lost is never taken for committed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import copy_context
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from handfast.server.chassis.call import CURRENT, Call, Method, Pool
from handfast.server.chassis.cancellation import LOOK_EVERY, Canceller
from handfast.server.chassis.data import postgresql as backend
from handfast.server.chassis.data.backend import DatabaseError
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import MIGRATION_LOCK, upgrade
from handfast.server.chassis.data.statements import Statement
from handfast.server.chassis.errors import DatabaseUnavailable
from handfast.server.chassis.errors.database import kind_of
from handfast.server.users.server import SCHEMA
from tests.databases.postgresql import PostgreSQL
from tests.databases.standby import no_standby, said, waiting_for_standby
from tests.eventually import PATIENCE, eventually

METHOD = Method("/s/m", "s", "m", "unary", "s", Pool("calls", 1))
ADD = sa.text("UPDATE counters SET value = value + 1")
VALUE = sa.text("SELECT value FROM counters")
SESSION = sa.text("SELECT pg_backend_pid()")
COUNTERS = sa.table("counters", sa.column("value", sa.Integer))
PROBE = sa.select(sa.literal(1))


@pytest.fixture
def url(own_server: PostgreSQL) -> str:
    url = own_server.emptied()
    database = sa.make_url(url).database
    assert database is not None
    own_server.execute("CREATE TABLE counters (value INTEGER)", "INSERT INTO counters VALUES (0)", database=database)
    return url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(Database(url)) as database:
        yield database


def add(database: Database, *, one_statement: bool = False) -> None:
    database.write(lambda connection: connection.execute(ADD), one_statement=one_statement)


def value(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(VALUE).scalar_one())


def session(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(SESSION).scalar_one())


def refused(action: Callable[[], object], why: str) -> bool:
    """Whether it is, for this reason, as what a caller may try again."""
    try:
        action()
    except DBAPIError as error:
        return why in str(error.orig) and kind_of(error) is DatabaseUnavailable
    return False


@pytest.mark.parametrize(
    ("setting", "bad"), [("fsync", "off"), ("synchronous_commit", "off"), ("default_transaction_read_only", "on")]
)
def test_a_change_after_which_commits_would_be_lost_is_noticed_by_probes_and_new_connections(
    own_server: PostgreSQL, database: Database, setting: str, bad: str
) -> None:
    before = session(database)
    with said(own_server, setting, bad) if bad == "off" else read_only(own_server):
        why = f"{setting} = {bad}"
        assert eventually(lambda: refused(lambda: database.probe(PROBE), why))
        assert refused(lambda: add(database), why)
        assert refused(lambda: value(database), why)
    assert eventually(lambda: not refused(lambda: database.probe(PROBE), why))
    add(database)
    assert value(database) == 1
    assert session(database) != before


@contextmanager
def read_only(server: PostgreSQL) -> Iterator[None]:
    """As `said` cannot be undone by sessions that may not write."""
    server.execute("ALTER ROLE postgres IN DATABASE shared SET default_transaction_read_only = on")
    try:
        yield
    finally:
        server.execute("ALTER ROLE postgres IN DATABASE shared RESET default_transaction_read_only")


def test_connections_that_are_open_keep_their_synchronous_commit_though_the_server_is_told_otherwise(
    own_server: PostgreSQL, database: Database
) -> None:
    with database.read() as connection, said(own_server, "synchronous_commit", "off"):
        reset = sa.text("SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'")
        assert eventually(lambda: connection.execute(reset).scalar_one() == "off")
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"


@pytest.mark.parametrize("level", ["local", "remote_write"])
def test_one_that_must_replicate_uses_no_connection_whose_commits_wait_for_no_standby(
    own_server: PostgreSQL, url: str, level: str
) -> None:
    with closing(Database(url, must_replicate=True)) as database:
        why = "without synchronous_standby_names, and database_must_replicate is set"
        assert refused(lambda: add(database), why)
        with said(own_server, "synchronous_standby_names", "*"):
            assert eventually(lambda: not refused(lambda: value(database), why))
            with said(own_server, "synchronous_commit", level):
                why = f"synchronous_commit = {level}, and database_must_replicate is set"
                assert eventually(lambda: refused(lambda: database.probe(PROBE), why))
                assert refused(lambda: value(database), why)


@pytest.fixture(params=["warnings", "no warnings"])
def hears(request: pytest.FixtureRequest, own_server: PostgreSQL) -> Iterator[None]:
    """What PostgreSQL is told to tell clients."""
    if request.param == "warnings":
        yield
        return
    own_server.execute("ALTER ROLE postgres IN DATABASE shared SET client_min_messages = error")
    yield
    own_server.execute("ALTER ROLE postgres IN DATABASE shared RESET client_min_messages")


@pytest.mark.usefixtures("hears")
@pytest.mark.parametrize("one_statement", [False, True])
def test_a_commit_whose_wait_for_the_standby_was_cancelled_is_not_taken_for_committed(
    own_server: PostgreSQL, database: Database, one_statement: bool
) -> None:
    before = session(database)
    with no_standby(own_server), ThreadPoolExecutor(1) as pool:
        writing = pool.submit(refused, lambda: add(database, one_statement=one_statement), "standby was cancelled")
        (waiting,) = eventually(lambda: waiting_for_standby(own_server)) or [0]
        assert waiting == before
        own_server.execute(f"SELECT pg_cancel_backend({waiting})")
        assert writing.result(PATIENCE)
    assert session(database) != before
    assert value(database) == 1  # it was not run again, either


@pytest.fixture
def call(canceller: Canceller) -> Call:
    call = Call(METHOD, METHOD.path)
    canceller.watch(call)
    return call


@pytest.mark.parametrize("one_statement", [False, True])
def test_a_commit_that_waits_for_the_standby_is_not_cancelled_though_its_call_is_over(
    own_server: PostgreSQL, database: Database, canceller: Canceller, call: Call, one_statement: bool
) -> None:
    def serve() -> None:
        CURRENT.set(call)
        add(database, one_statement=one_statement)

    session(database)
    with ThreadPoolExecutor(1) as pool:
        with no_standby(own_server):
            writing = pool.submit(copy_context().run, serve)
            assert eventually(lambda: waiting_for_standby(own_server))
            canceller.grpc_ended(call)
            never = threading.Event()
            never.wait(5 * LOOK_EVERY)  # the canceller has looked meanwhile
            assert waiting_for_standby(own_server)
            assert not writing.done()
        writing.result(PATIENCE)
    assert value(database) == 1


@contextmanager
def paused(server: PostgreSQL, database: Database, *more: int) -> Iterator[None]:
    """The server, the session that the database has, and more sessions."""
    pids = [session(database), *more, server.pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def test_a_call_comes_back_from_a_server_that_is_paused_and_the_next_ones_are_served_when_it_goes_on(
    own_server: PostgreSQL, database: Database, canceller: Canceller, call: Call
) -> None:
    def serve() -> None:
        CURRENT.set(call)
        value(database)

    with ThreadPoolExecutor(1) as pool:
        with paused(own_server, database):
            serving = pool.submit(copy_context().run, serve)
            assert eventually(lambda: call.callbacks is not None and bool(call.callbacks.all))
            canceller.grpc_ended(call)
            with pytest.raises(OperationalError) as lost:
                serving.result(PATIENCE)
            assert kind_of(lost.value) is DatabaseUnavailable
        pool.submit(add, database).result(PATIENCE)
    assert value(database) == 1


def test_what_nobody_cancels_gives_up_a_server_that_is_paused(
    own_server: PostgreSQL, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "ANSWER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(backend, "_PROBE_TIMEOUT_S", 0.5)
    with closing(Database(url)) as database:
        database.probe(PROBE)
        with database.backend.prober.connect() as connection:
            prober = int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        count = Statement(database, sa.select(COUNTERS))
        with paused(own_server, database, prober):
            with pytest.raises(OperationalError, match="does not answer"):
                database.write(lambda connection: count.all(connection))
            with pytest.raises(OperationalError, match="does not answer"):
                database.probe(PROBE)
        with paused(own_server, database), pytest.raises(OperationalError, match="does not answer"):
            value(database)
        with paused(own_server, database), pytest.raises(OperationalError, match="does not answer"):
            add(database)
        add(database)
        database.probe(PROBE)
        assert value(database) == 1


def test_a_migration_takes_its_time_but_gives_up_a_server_that_is_paused(
    own_server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setitem(backend.CONNECTION, "connect_timeout", 2)
    with closing(Database(own_server.emptied())) as database, ThreadPoolExecutor(1) as pool:
        with database.engine.connect() as connection:
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            connection.exec_driver_sql("SELECT pg_sleep(1)")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            migrating = pool.submit(upgrade, database, SCHEMA)
            assert eventually(lambda: asks_again(own_server))
            with (
                all_paused(own_server),
                pytest.raises(DatabaseError, match=r"cannot use .*: the server does not answer"),
            ):
                migrating.result(PATIENCE)
        upgrade(database, SCHEMA)


def asks_again(server: PostgreSQL) -> bool:
    """Whether a session of the shared database has been refused the lock of migrations."""
    engine = sa.create_engine(server.url("postgres"))
    with closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = 'shared' AND query = 'ROLLBACK'")
        return bool(cursor.fetchall())


@contextmanager
def all_paused(server: PostgreSQL) -> Iterator[None]:
    """All processes of the server."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    pids = [server.pid, *map(int, children)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def test_a_migration_whose_wait_for_the_standby_was_cancelled_does_not_count_as_done(own_server: PostgreSQL) -> None:
    with closing(Database(own_server.emptied())) as database, ThreadPoolExecutor(1) as pool:
        with no_standby(own_server):
            migrating = pool.submit(upgrade, database, SCHEMA)
            while not migrating.done():
                own_server.execute(*(f"SELECT pg_cancel_backend({pid})" for pid in waiting_for_standby(own_server)))
            with pytest.raises(DatabaseError, match="the wait for the synchronous standby was cancelled"):
                migrating.result()
        upgrade(database, SCHEMA)
