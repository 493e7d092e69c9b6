"""Account calls whose decision the database does not take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest
from handfast.client import ServiceError, Suite, connect
from handfast.server.accounts.server import build
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.errors.database import is_undone
from handfast.server.suite import SuiteSettings
from handfast.users.v1.users_pb2 import User
from tests.databases.postgresql import PostgreSQL
from tests.people import new_email, new_id


@pytest.fixture
def url(server: PostgreSQL) -> str:
    """Of an empty database, whose locks are waited for briefly."""
    url = sa.make_url(server.emptied()).update_query_dict({"options": "-clock_timeout=100"})
    return url.render_as_string(hide_password=False)


@pytest.fixture
def suite(url: str, addresses: dict[str, str]) -> Iterator[Suite]:
    """The shared servers of users and preferences, with a server of accounts in this process."""
    settings = SuiteSettings(
        name="accounts",
        listen="127.0.0.1:0",
        database_url=url,
        migrate=True,
        users_address=addresses["users"],
        preferences_address=addresses["preferences"],
        grace=0.5,
    )
    started = build(settings)
    started.start()
    try:
        with connect(addresses["users"], addresses["preferences"], started.address) as suite:
            yield suite
    finally:
        started.stop()


def test_one_that_cannot_be_stored_for_a_lock_is_known_not_to_be(suite: Suite, url: str) -> None:
    user = User(user_id=new_id(), email=new_email())
    engine = sa.create_engine(url)
    with contextlib.closing(engine.connect()) as other:
        other.exec_driver_sql("SELECT * FROM horizon FOR UPDATE")
        with pytest.raises(ServiceError) as refused:
            suite.accounts.CreateAccount(CreateAccountRequest(user=user))
    engine.dispose()
    assert refused.value.reason == "DATABASE_CONFLICT"
    assert refused.value.retry_after is not None


def test_it_is_known_not_to_be_stored_where_there_is_no_connection(tmp_path: Path) -> None:
    database = Database(f"postgresql://nobody@/nowhere?host={tmp_path}")
    with contextlib.closing(database), pytest.raises(SQLAlchemyError) as failed:
        database.write(lambda connection: connection.exec_driver_sql("SELECT 1"))
    assert is_undone(failed.value)


def test_it_may_be_stored_where_the_connection_is_lost_with_its_statement(server: PostgreSQL, url: str) -> None:
    with contextlib.closing(Database(url)) as database, pytest.raises(DBAPIError) as failed:
        database.write(
            lambda connection: connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())"),
            one_statement=True,
        )
    assert not is_undone(failed.value)
