"""While the standby of PostgreSQL is away, commits that wait for it pile up neither there nor in the server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from handfast.server.chassis.call import CURRENT, Call, Method, Pool
from handfast.server.chassis.cancellation import Canceller
from handfast.server.chassis.data import database as databases
from handfast.server.chassis.data import postgresql as backend
from handfast.server.chassis.data import postgresql_session
from handfast.server.chassis.data.backend import DatabaseError
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import database_check, upgrade
from handfast.server.chassis.data.schema import MARK
from handfast.server.chassis.errors import DatabaseUnavailable
from handfast.server.chassis.errors.database import kind_of
from handfast.server.users.server import SCHEMA
from tests.databases.postgresql import PostgreSQL
from tests.databases.standby import no_standby, standby_that_shows_nothing, waiting_for_standby
from tests.eventually import PATIENCE, eventually

METHOD = Method("/s/m", "s", "m", "unary", "s", Pool("calls", 1))
COMMITS = 4
NOTES = sa.table("notes", sa.column("number", sa.Integer))


@pytest.fixture
def url(own_server: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> str:
    url = own_server.emptied()
    with closing(Database(url)) as database:
        upgrade(database, SCHEMA)
        database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE notes (number INTEGER)"))
    monkeypatch.setattr(backend, "_PROBE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(postgresql_session, "GIVE_UP_AFTER_S", 0.5)
    monkeypatch.setattr(databases, "REFUSED_S", PATIENCE)
    return url


@pytest.fixture
def database(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """It gives everything up before long."""
    monkeypatch.setattr(backend, "ANSWER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(databases, "AWAY_S", 0.5)
    with closing(Database(url)) as database:
        yield database


def write(database: Database) -> None:
    database.write(lambda connection: connection.execute(sa.insert(NOTES).values(number=1)))


def write_by_one_statement(database: Database) -> None:
    database.write(lambda connection: connection.execute(sa.insert(NOTES).values(number=1)), one_statement=True)


def read_durable(database: Database) -> None:
    with database.read_durable() as connection:
        connection.execute(sa.select(MARK.c.owner).with_for_update(read=True, key_share=True))


def refused(commit: Callable[[Database], None], database: Database) -> str:
    """Why it is, as UNAVAILABLE."""
    with pytest.raises(DBAPIError) as error:
        commit(database)
    assert kind_of(error.value) is DatabaseUnavailable
    return str(error.value.orig)


@pytest.mark.parametrize("given_up", [write, write_by_one_statement, read_durable])
def test_after_a_commit_was_given_up_no_more_are_sent_until_the_standby_is_back(
    own_server: PostgreSQL, database: Database, given_up: Callable[[Database], None]
) -> None:
    check = database_check(database, SCHEMA)
    with no_standby(own_server), ThreadPoolExecutor(COMMITS) as pool:
        check()
        giving_up = [pool.submit(refused, given_up, database) for _ in range(COMMITS)]
        assert {each.result(PATIENCE) for each in giving_up} == {"the server does not answer"}
        assert len(waiting_for_standby(own_server)) == COMMITS
        assert "a commit was not answered, so none is sent" in refused(write, database)
        with pytest.raises(DatabaseError):
            check()
        waiting = waiting_for_standby(own_server)
        assert len(waiting) == COMMITS + 1  # the one that is tried
        for _ in range(3):
            for commit in (write, write_by_one_statement, read_durable):
                assert "commits wait for the synchronous standby, so none is sent" in refused(commit, database)
            with pytest.raises(DatabaseError, match="commits wait for the synchronous standby, which is away"):
                check()
            with database.read() as connection:
                assert connection.execute(sa.select(MARK.c.owner)).scalar_one() == "users"
        assert waiting_for_standby(own_server) == waiting
    assert eventually(lambda: works(check))
    assert eventually(lambda: works(partial(write, database)))


@pytest.mark.parametrize("given_up", [write, write_by_one_statement])
def test_a_commit_is_given_up_and_not_cancelled_soon_after_its_call_is_over_and_the_server_stays_ready_for_reads(
    own_server: PostgreSQL,
    url: str,
    canceller: Canceller,
    monkeypatch: pytest.MonkeyPatch,
    given_up: Callable[[Database], None],
) -> None:
    monkeypatch.setattr(backend, "ANSWER_TIMEOUT_S", 10 * PATIENCE)
    monkeypatch.setattr(databases, "AWAY_S", 10 * PATIENCE)
    call = Call(METHOD, METHOD.path)
    canceller.watch(call)

    def serve(database: Database) -> str:
        CURRENT.set(call)
        return refused(given_up, database)

    with closing(Database(url)) as database, ThreadPoolExecutor(2) as pool:
        check = database_check(database, SCHEMA)
        with no_standby(own_server):
            check()
            serving = pool.submit(copy_context().run, serve, database)
            in_the_background = pool.submit(write, database)
            assert eventually(lambda: len(waiting_for_standby(own_server)) == 2)
            canceller.grpc_ended(call)
            assert "nobody waited" in serving.result(PATIENCE)
            for _ in range(3):
                assert "none is sent" in refused(write, database)
                check()
            assert len(waiting_for_standby(own_server)) == 3  # with the one that is tried
        in_the_background.result(PATIENCE)
        assert eventually(lambda: works(check) and works(partial(write, database)))
        with database.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(NOTES)).scalar_one() == 3


def test_a_write_that_changes_nothing_does_not_tell_that_commits_are_answered(
    own_server: PostgreSQL, database: Database
) -> None:
    reads, go_on = threading.Event(), threading.Event()

    def change_nothing(connection: sa.Connection) -> None:
        connection.execute(sa.delete(NOTES).where(sa.false()))
        reads.set()
        assert go_on.wait(PATIENCE)

    with no_standby(own_server), ThreadPoolExecutor(1) as pool:
        database.probe(sa.select(sa.literal(1)))
        changing = pool.submit(database.write, change_nothing)
        assert reads.wait(PATIENCE)
        assert refused(write, database) == "the server does not answer"
        go_on.set()
        changing.result(PATIENCE)
        assert "none is sent" in refused(write, database)


def test_writes_are_sent_though_commits_of_others_wait_for_more_than_these_need(
    own_server: PostgreSQL, database: Database, tmp_path: Path
) -> None:
    check = database_check(database, SCHEMA)
    shown = sa.create_engine(database.engine.url, connect_args={"options": "-csynchronous_commit=remote_apply"})

    def write_and_show() -> None:
        with shown.begin() as connection:
            connection.execute(sa.insert(NOTES).values(number=1))

    with ThreadPoolExecutor(1) as pool:
        with standby_that_shows_nothing(own_server, tmp_path):
            assert eventually(lambda: works(check))
            write(database)
            showing = pool.submit(write_and_show)
            assert eventually(lambda: waiting_for_standby(own_server))
            database.writing_failed = True
            assert eventually(lambda: works(check))
            assert not database.writing_failed
            write(database)
            assert len(waiting_for_standby(own_server)) == 1
        showing.result(PATIENCE)


def test_where_no_readiness_check_looks_writes_are_tried_again_before_long(
    own_server: PostgreSQL, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "REFUSED_S", 0.5)
    with no_standby(own_server):
        database.probe(sa.select(sa.literal(1)))
        assert refused(write, database) == "the server does not answer"
        assert eventually(lambda: "none is sent" in refused(write, database))
        assert eventually(lambda: refused(write, database) == "the server does not answer")
    assert eventually(lambda: works(partial(write, database)))


def works(action: Callable[[], object]) -> bool:
    try:
        action()
    except (DBAPIError, DatabaseError):
        return False
    return True
