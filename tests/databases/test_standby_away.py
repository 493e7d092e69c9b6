"""While the standby of PostgreSQL is away, commits that wait for it pile up neither there nor in the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from functools import partial

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
from tests.databases.standby import no_standby, waiting_for_standby
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
    monkeypatch.setattr(databases, "GIVE_UP_AFTER_S", 0.5)
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
        waiting = waiting_for_standby(own_server)
        assert len(waiting) == COMMITS
        for _ in range(3):
            for commit in (write, write_by_one_statement, read_durable):
                assert "none is sent" in refused(commit, database)
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
            assert len(waiting_for_standby(own_server)) == 2
        in_the_background.result(PATIENCE)
        write(database)  # as one was answered
        with database.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(NOTES)).scalar_one() == 3


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
