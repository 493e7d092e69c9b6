"""PostgreSQL by URL: connections that notice a server which is gone, hold no locks for ever, and can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy import event

from handfast.server.chassis.cancellation import cancel_scope
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
_SET_IN_TRANSACTION = "; ".join(f"SET LOCAL {name} = {value}" for name, value in TIMEOUTS.items())
_POOLED = "pooled"

_log = structlog.get_logger()


def postgresql_engine(url: sa.URL, **options: Any) -> sa.Engine:
    """The parameters of the URL are those of libpq. What they say of `CONNECTION` and `TIMEOUTS` holds, and else those.

    Behind a pooler that shares sessions between transactions, such as PgBouncer, nothing is kept in a session: neither
    prepared statements, nor the timeouts, which then are a round trip of each local transaction.
    """
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="READ COMMITTED",
        connect_args={name: value for name, value in CONNECTION.items() if name not in url.query},
        **options,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.autocommit = True
        (session,) = connection.execute("SELECT pg_backend_pid()").fetchone()
        record.info[_POOLED] = session != connection.info.backend_pid  # a pooler makes up the number that it tells
        if record.info[_POOLED]:
            connection.prepare_threshold = None
        else:
            connection.execute(_SET_IN_SESSION)
        connection.autocommit = False

    return engine


def writing(engine: sa.Engine) -> sa.Engine:
    """The same engine for local transactions."""
    engine = engine.execution_options()

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.info[_POOLED]:
            connection.exec_driver_sql(_SET_IN_TRANSACTION)

    return engine


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
