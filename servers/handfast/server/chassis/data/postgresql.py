"""PostgreSQL as the backend of a `Database`: connections that notice a server which is gone, and keep no locks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from handfast.server.chassis.cancellation import check_active
from handfast.server.chassis.data.backend import PATIENCE_S, SESSION, Backend, DatabaseError, as_sqlalchemy, flush
from handfast.server.chassis.data.metrics import GroupMetrics
from handfast.server.chassis.data.postgresql_session import PostgresqlSession

Result = TypeVar("Result")

# A server that vanished is noticed within some ten seconds, where TCP alone would take a quarter of an hour.
CONNECTION = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "fallback_application_name": "handfast",
}

# In milliseconds: a process that is frozen in the middle of a local transaction, or cut off, must not keep others
# waiting for its locks.
TIMEOUTS = {"lock_timeout": 3000, "idle_in_transaction_session_timeout": 5000}

_SET_IN_SESSION = (
    "SELECT set_config(name, value, false) FROM pg_settings JOIN (VALUES "
    + ", ".join(f"('{name}', '{value}')" for name, value in TIMEOUTS.items())
    + ") AS timeouts (name, value) USING (name) WHERE source <> 'client'"
)
_SET_IN_TRANSACTION = "SELECT " + ", ".join(
    f"set_config('{name}', '{value}', true)" for name, value in TIMEOUTS.items()
)
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"


class Postgresql(Backend):
    """Local transactions are READ COMMITTED, and take row locks."""

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        self.reader = _engine(parsed, poolclass=NullPool)
        self.prober = _engine(parsed, pool_size=1, max_overflow=0, pool_timeout=PATIENCE_S)
        self.engine = _migrating(self.reader)
        # As libpq takes parameters.
        self.dialect = psycopg_dialect(paramstyle="numeric_dollar", dbapi=psycopg)  # type: ignore[no-untyped-call]
        self.group_metrics = GroupMetrics()

    def write(self, work: Callable[[sa.Connection], Result], one_statement: bool) -> Result:
        """One statement commits by itself, but behind a pooler, where timeouts are set in each local transaction."""
        connection = self.kept.take()
        session: PostgresqlSession = connection.info[SESSION]
        try:
            if one_statement and not session.pooled:
                return work(connection)
            session.begin()
            result = work(connection)
            check_active()
            session.commit()
            return result
        except BaseException as error:
            session.roll_back()
            if isinstance(error, psycopg.Error):
                raise as_sqlalchemy(connection, error, "COMMIT") from error
            raise
        finally:
            self.kept.give_back(connection)

    def check_durable(self, connection: sa.Connection) -> None:
        for setting in ("fsync", "synchronous_commit"):
            if connection.exec_driver_sql(f"SHOW {setting}").scalar_one() == "off":
                raise DatabaseError(f"PostgreSQL runs with {setting} = off: commits would not be durable")


def _parsed(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (ArgumentError, ValueError):  # the latter where a port is no number
        raise DatabaseError("the database URL is not of the form postgresql://USER:PASSWORD@HOST:PORT/NAME") from None


def _engine(url: sa.URL, **options: Any) -> sa.Engine:
    """The parameters of the URL are those of libpq. What they say of `CONNECTION` and `TIMEOUTS` holds, and else those.

    Behind a pooler that shares sessions between transactions, such as PgBouncer, nothing is kept in a session: neither
    prepared statements, nor the timeouts, which then are set in each local transaction, in the round trip of its BEGIN.
    """
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,  # errors are logged, and parameters may be personal data
        connect_args={name: value for name, value in CONNECTION.items() if name not in url.query},
        **options,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.autocommit = True  # as SQLAlchemy believes it to be
        (session,) = connection.execute("SELECT pg_backend_pid()").fetchone()
        pooled = session != connection.info.backend_pid  # a pooler makes up the number that it tells
        connection.prepare_threshold = None  # the session prepares, and psycopg would at times deallocate all of that
        if not pooled:
            connection.execute(_SET_IN_SESSION)
        begin = [_BEGIN, _SET_IN_TRANSACTION] if pooled else [_BEGIN]
        record.info[SESSION] = PostgresqlSession(connection, pooled, begin)

    event.listen(engine, "before_cursor_execute", flush)
    return engine


def _migrating(engine: sa.Engine) -> sa.Engine:
    """The same engine for transactions that SQLAlchemy begins and commits."""
    engine = engine.execution_options(isolation_level="READ COMMITTED")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.info[SESSION].pooled:
            connection.exec_driver_sql(_SET_IN_TRANSACTION)

    return engine
