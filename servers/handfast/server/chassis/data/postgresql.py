"""PostgreSQL by URL: connections that notice a server which is gone, hold no locks for ever, and can be cancelled."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import sqlalchemy as sa
import structlog
from psycopg.pq import TransactionStatus
from sqlalchemy import event

from handfast.server.chassis.cancellation import cancel_scope
from handfast.server.chassis.data.statements import SESSION, as_sqlalchemy
from handfast.server.chassis.logs.tracebacks import in_one_line

CANCEL_TIMEOUT = 1.0

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
_POOLED = "pooled"

_log = structlog.get_logger()


def postgresql_engine(url: sa.URL, **options: Any) -> sa.Engine:
    """The parameters of the URL are those of libpq. What they say of `CONNECTION` and `TIMEOUTS` holds, and else those.

    Behind a pooler that shares sessions between transactions, such as PgBouncer, nothing is kept in a session: neither
    prepared statements, nor the timeouts, which then are set in each local transaction, in the round trip of its BEGIN.
    """
    logging.getLogger("psycopg").addFilter(_is_news)
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
        if pooled:
            connection.prepare_threshold = None
        else:
            connection.execute(_SET_IN_SESSION)
        record.info[_POOLED] = pooled
        record.info[SESSION] = Session(connection, pooled)

    @event.listens_for(engine, "before_cursor_execute")
    def flush(connection: sa.Connection, *_: Any) -> None:
        try:
            connection.info[SESSION].flush()
        except psycopg.Error as error:
            raise as_sqlalchemy(connection, error, None) from error

    return engine


def migrating(engine: sa.Engine) -> sa.Engine:
    """The same engine for transactions that SQLAlchemy begins and commits."""
    engine = engine.execution_options(isolation_level="READ COMMITTED")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.info[_POOLED]:
            connection.exec_driver_sql(_SET_IN_TRANSACTION)

    return engine


def _is_news(record: logging.LogRecord) -> bool:
    # Of a pipeline whose error is raised, psycopg logs that what came after it was skipped.
    return not str(record.msg).startswith("error ignored terminating")


class Session:
    """Runs statements on one connection in as few round trips as there can be: BEGIN and what is `sent` travel with the
    next statement that somebody waits for, or with COMMIT (pipeline mode of libpq). Before `begin`, each statement
    commits by itself, and nothing is to be `sent`. `pooled` says that a pooler is in between.
    """

    def __init__(self, driver: psycopg.Connection[Any], pooled: bool) -> None:
        self._driver, self.pooled = driver, pooled
        self._first = [(_BEGIN, None), (_SET_IN_TRANSACTION, None)] if pooled else [(_BEGIN, None)]
        self._unsent: list[tuple[str, Any]] = []

    def begin(self) -> None:
        self._unsent = self._first.copy()

    def send(self, sql: str, parameters: Any) -> None:
        self._unsent.append((sql, parameters))

    def execute(self, sql: str, parameters: Any = None) -> psycopg.Cursor[Any]:
        if not self._unsent:
            return self._execute(sql, parameters)
        with self._driver.pipeline():
            self._send()
            return self._execute(sql, parameters)

    def executemany(self, sql: str, each: Sequence[Any]) -> psycopg.Cursor[Any]:
        cursor = self._driver.cursor()
        with self._driver.pipeline():
            self._send()
            cursor.executemany(sql, each)
        return cursor

    def flush(self) -> None:
        if self._unsent:
            with self._driver.pipeline():
                self._send()

    def commit(self, connection: sa.Connection) -> None:
        """Raises DBAPIError; also where the work hid an error, after which PostgreSQL only rolls back."""
        if self._unsent == self._first:  # nothing was done
            self._unsent.clear()
            return
        try:
            if self._driver.pgconn.transaction_status == TransactionStatus.INERROR:
                raise psycopg.errors.InFailedSqlTransaction("the transaction has failed")
            self.execute("COMMIT")
        except psycopg.Error as error:
            raise as_sqlalchemy(connection, error, "COMMIT") from error

    def roll_back(self) -> None:
        """Where that fails, the connection is not idle, and so not used again."""
        self._unsent.clear()
        if not self.idle:
            with suppress(psycopg.Error):
                self._driver.pgconn.exec_(b"ROLLBACK")  # for psycopg's own, all that is prepared is prepared anew

    @property
    def idle(self) -> bool:
        """Whether it is in no transaction, and alive as far as is known."""
        return self._driver.pgconn.transaction_status == TransactionStatus.IDLE

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        for sql, parameters in unsent:
            self._execute(sql, parameters)

    def _execute(self, sql: str, parameters: Any) -> psycopg.Cursor[Any]:
        # What psycopg prepares by itself, after some uses, it takes for prepared even where PostgreSQL skips it in a
        # pipeline that has failed; not so what it is told to prepare.
        return self._driver.execute(sql, parameters, prepare=True)


def is_idle(connection: sa.Connection) -> bool:
    session: Session = connection.info[SESSION]
    return session.idle


@contextmanager
def cancellable(driver: Any) -> Iterator[None]:
    """`cancel_scope` for a connection to PostgreSQL. To cancel takes a connection of its own, so it has a thread of
    its own: where the network is down, each would hold up all others. None is under way once the block has been left.
    """
    cancelling = threading.Lock()
    left = False

    def cancel() -> None:
        try:
            if not left:
                driver.cancel_safe(timeout=CANCEL_TIMEOUT)
        except Exception as error:
            _log.warning("a query that nobody waits for could not be cancelled", **{"error.cause": in_one_line(error)})
        finally:
            cancelling.release()

    def wake() -> None:
        if cancelling.acquire(blocking=False):  # else it is being cancelled
            try:
                threading.Thread(target=cancel, name="cancel", daemon=True).start()
            except RuntimeError:  # there can be no more threads
                cancelling.release()
                raise

    try:
        with cancel_scope(wake):
            yield
    finally:
        left = True
        with cancelling:
            pass
