"""PostgreSQL as the backend of a `Database`: connections that notice a server which is gone, and keep no locks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
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
from handfast.server.chassis.data.postgresql_connection import ANSWER_TIMEOUT_S, AnsweringConnection
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

_HEAR_WARNINGS = "set_config('client_min_messages', 'warning', {})"
"""Or nothing would tell that a commit did not wait for its standby."""

# `synchronous_commit` stays what it is when a connection is made: a change of it is noticed, and not obeyed.
_SET_IN_SESSION = (
    "SELECT set_config(name, value, false) FROM pg_settings JOIN (VALUES "
    + ", ".join(f"('{name}', '{value}')" for name, value in TIMEOUTS.items())
    + ") AS timeouts (name, value) USING (name) WHERE source <> 'client'"
    " UNION ALL SELECT set_config('synchronous_commit', current_setting('synchronous_commit'), false)"
    f" UNION ALL SELECT {_HEAR_WARNINGS.format('false')}"
)
_SET_IN_TRANSACTION = "SELECT " + ", ".join(
    [*(f"set_config('{name}', '{value}', true)" for name, value in TIMEOUTS.items()), _HEAR_WARNINGS.format("true")]
)
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_LOOK = (
    "SELECT pg_backend_pid(), pg_is_in_recovery(), name, reset_val FROM pg_settings"
    " WHERE name IN ('fsync', 'synchronous_commit', 'synchronous_standby_names', 'default_transaction_read_only')"
)
"""`reset_val` is what the server's settings, and those of the database and the role, are by now."""

_TRY = "SELECT pg_backend_pid(), pg_logical_emit_message(true, 'handfast', '')"
"""Puts a few bytes in the log of PostgreSQL, which a standby has to have before they are committed."""
_TRIED_WAIT_S = (
    "SELECT extract(epoch FROM clock_timestamp() - state_change)::float8 FROM pg_stat_activity"
    " WHERE pid = $1 AND wait_event = 'SyncRep'"
)

_PROBE_TIMEOUT_S = 2.0
"""Less than the patience of readiness, so that the next probe is on another connection."""


class Postgresql(Backend):
    """Local transactions are READ COMMITTED, and take row locks."""

    def __init__(self, url: str, must_replicate: bool) -> None:
        parsed = _parsed(url)
        self._must_replicate = must_replicate
        self.reader = self._engine(parsed, ANSWER_TIMEOUT_S, poolclass=NullPool)
        self.prober = self._engine(
            parsed, _PROBE_TIMEOUT_S, pool_size=1, max_overflow=0, pool_timeout=PATIENCE_S, pool_reset_on_return=None
        )
        # A revision may take long, so it waits for as long as others are answered.
        self.autocommit = self._engine(parsed, ANSWER_TIMEOUT_S, ask=self._ask, poolclass=NullPool)
        self.engine = _migrating(self.autocommit)
        # As libpq takes parameters.
        self.dialect = psycopg_dialect(paramstyle="numeric_dollar", dbapi=psycopg)  # type: ignore[no-untyped-call]
        self.group_metrics = GroupMetrics()
        self._tried_pid = 0  # of the session of `try_commit`, where that was not answered

    def write(self, work: Callable[[sa.Connection], Result], one_statement: bool) -> Result:
        """One statement commits by itself, but behind a pooler, where timeouts are set in each local transaction."""
        connection = self.kept.take()
        session: PostgresqlSession = connection.info[SESSION]
        committing = session.giving_up if self.replicates else nullcontext
        try:
            if one_statement and not session.pooled:
                session.may_cancel = False  # or PostgreSQL would commit without waiting for its standby
                with committing():
                    result = work(connection)
            else:
                session.begin()
                result = work(connection)
                check_active()
                with committing():
                    session.commit()
            session.check_replicated()
            return result
        except BaseException as error:
            session.roll_back()
            if isinstance(error, psycopg.Error):
                raise as_sqlalchemy(connection, error, "COMMIT") from error
            raise
        finally:
            self.kept.give_back(connection)

    def check_probed(self, connection: sa.Connection) -> None:
        self._look(connection.info[SESSION])

    def try_commit(self, session: PostgresqlSession) -> None:
        session.begin()
        self._tried_pid = session.rows(_TRY, ())[0][0]
        session.commit()
        session.check_replicated()
        self._tried_pid = 0

    def tried_wait_s(self, session: PostgresqlSession) -> float:
        """No other session is looked at: it may wait for more than commits of this server need, such as
        `synchronous_commit = remote_apply`."""
        rows = session.rows(_TRIED_WAIT_S, (self._tried_pid,))
        return float(rows[0][0]) if rows else 0.0

    def check_committed(self, connection: sa.Connection) -> None:
        try:
            connection.info[SESSION].check_replicated()
        except psycopg.Error as error:
            raise as_sqlalchemy(connection, error, "COMMIT") from error

    def _ask(self) -> None:
        """Raises OperationalError where a new connection is not answered."""
        with self.prober.connect() as connection:
            connection.invalidate()

    def _engine(
        self, url: sa.URL, answer_timeout_s: float, *, ask: Callable[[], object] | None = None, **options: Any
    ) -> sa.Engine:
        """The parameters of the URL are those of libpq. What they say of `CONNECTION` and `TIMEOUTS` holds, and else
        those.

        Behind a pooler that shares sessions between transactions, such as PgBouncer, nothing is kept in a session:
        neither prepared statements, nor settings, which then are set in each local transaction, in the round trip of
        its BEGIN.
        """
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,  # errors are logged, and parameters may be personal data
            connect_args={name: value for name, value in CONNECTION.items() if name not in url.query},
            **options,
        )

        @event.listens_for(engine, "do_connect")
        def connect(_dialect: Any, _record: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
            driver = AnsweringConnection.connect(*arguments, **options)
            driver.answer_timeout_s, driver.ask = answer_timeout_s, ask
            return driver

        @event.listens_for(engine, "connect")
        def configure(driver: Any, record: Any) -> None:
            driver.autocommit = True  # as SQLAlchemy believes it to be
            driver.prepare_threshold = None  # the session prepares, and psycopg would at times deallocate all of that
            session = record.info[SESSION] = PostgresqlSession(driver)
            try:
                pid, synchronous_commit = self._look(session)
                pooled = pid != driver.info.backend_pid  # a pooler makes up the number that it tells
                if not pooled:
                    session.rows(_SET_IN_SESSION, ())
            except BaseException:
                driver.close()
                raise
            keep = f"{_SET_IN_TRANSACTION}, set_config('synchronous_commit', '{synchronous_commit}', true)"
            session.configure(pooled, [_BEGIN, keep] if pooled else [_BEGIN])

        event.listen(engine, "before_cursor_execute", flush)
        return engine

    def _look(self, session: PostgresqlSession) -> tuple[int, str]:
        """The session's number, and its `synchronous_commit`. Raises OperationalError where commits could be lost."""
        rows = session.rows(_LOOK, ())
        pid, in_recovery = rows[0][:2]
        settings = {name: value for *_, name, value in rows}
        synchronous_commit = settings["synchronous_commit"]
        self.replicates = bool(settings["synchronous_standby_names"])
        why = ""
        if in_recovery:
            why = "PostgreSQL is in recovery, so it is a standby or about to start: it takes no writes"
        elif settings["default_transaction_read_only"] == "on":
            why = "PostgreSQL runs with default_transaction_read_only = on: it takes no writes"
        elif settings["fsync"] == "off":
            why = "PostgreSQL runs with fsync = off: commits would not be durable"
        elif synchronous_commit == "off":
            why = "PostgreSQL runs with synchronous_commit = off: commits would not be durable"
        elif self._must_replicate and synchronous_commit in ("local", "remote_write"):
            why = f"PostgreSQL runs with synchronous_commit = {synchronous_commit}, and database_must_replicate is set"
        elif self._must_replicate and not settings["synchronous_standby_names"]:
            why = "PostgreSQL runs without synchronous_standby_names, and database_must_replicate is set"
        if why:
            self.kept.close()  # those who come next open new ones, which are looked at as well
            raise psycopg.OperationalError(why)
        return pid, synchronous_commit


def _parsed(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (ArgumentError, ValueError):  # the latter where a port is no number
        raise DatabaseError("the database URL is not of the form postgresql://USER:PASSWORD@HOST:PORT/NAME") from None


def _migrating(engine: sa.Engine) -> sa.Engine:
    """The same engine for transactions that SQLAlchemy begins and commits."""
    engine = engine.execution_options(isolation_level="READ COMMITTED")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.info[SESSION].pooled:
            connection.exec_driver_sql(_SET_IN_TRANSACTION)

    return engine
