"""What a revision does that is too long for one transaction, as calls would wait until it is done. It says so:

    in_one_transaction = False

Then each statement of it commits by itself. Where it ends halfway, it is run again from its beginning: so whatever it
does, it does nothing where that has been done.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError

from handfast.server.chassis.data.backend import SESSION, DatabaseError, one_line
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.revisions import Revision
from handfast.server.chassis.errors.database import is_conflict

Result = TypeVar("Result")

LOCK_TIMEOUT = "500ms"
"""How long a revision waits for a lock, before it lets those pass that wait behind it. Servers wait longer
(`postgresql.TIMEOUTS`), and PostgreSQL looks for deadlocks after a second, so it is not calls that fail."""
PATIENCE_S = 300.0
"""Seconds for which a revision tries again to get its locks."""
_STEPS = "steps"

_log = structlog.get_logger()


def create_index_concurrently(name: str, table: str, columns: Sequence[str | sa.TextClause], **options: Any) -> None:
    """Builds an index, unless it is there. `options` are those of Alembic's `op.create_index`, such as `unique` or
    `postgresql_where`. Calls write to the table meanwhile, but on SQLite. It waits until all transactions have ended
    that are older.

    What PostgreSQL could not build to its end it keeps as an index that is not valid, which is built anew
    (https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY).
    """
    from alembic import op

    with _waiting_for_locks(connection := _connection()):
        if connection.dialect.name == "postgresql":
            # Where who built it was killed, PostgreSQL builds on: this waits for that.
            quoted = connection.dialect.identifier_preparer.quote(table)
            connection.exec_driver_sql(f"BEGIN; LOCK TABLE {quoted} IN SHARE UPDATE EXCLUSIVE MODE; COMMIT")
            valid = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(quote_ident(:name))")
            if connection.execute(valid, {"name": name}).scalar_one_or_none() is False:
                op.drop_index(name, table, postgresql_concurrently=True)
        op.create_index(name, table, columns, if_not_exists=True, postgresql_concurrently=True, **options)


def drop_index_concurrently(name: str, table: str) -> None:
    """Takes an index away, unless it is gone, as `create_index_concurrently` builds it."""
    from alembic import op

    with _waiting_for_locks(_connection()):
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)


def change_in_batches(
    key: sa.ColumnClause[Any], change: Callable[[sa.Connection, sa.ColumnElement[bool]], object], rows: int = 1000
) -> None:
    """Calls `change(connection, within)` for all rows of a table, about so many at a time in the order of `key`, each
    time in a transaction of its own. `within` is the condition of these rows; it is for `change` to leave those alone
    that it has changed before. The key is the first column of the primary key. What others insert meanwhile may be left
    out.

    After each batch it rests for as long as that took, as on SQLite nobody else writes meanwhile.
    """
    connection = _connection()
    beyond: sa.ColumnElement[bool] = sa.true()
    while True:
        last = connection.execute(sa.select(key).where(beyond).order_by(key).offset(rows - 1).limit(1)).scalar()
        within = beyond if last is None else sa.and_(beyond, key <= last)
        began_monotonic_s = time.monotonic()
        patiently(partial(_in_transaction, connection, partial(change, connection, within)))
        if last is None:
            return
        beyond = key > last
        time.sleep(time.monotonic() - began_monotonic_s)


def run_apart(database: Database, revision: Revision, *, back: bool) -> None:
    """Runs a revision that is not one transaction. That it was run is for the caller to note."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    with database.backend.autocommit.connect() as connection:
        _set_lock_timeout(connection, LOCK_TIMEOUT)
        context = MigrationContext.configure(connection, opts={_STEPS: True})
        with Operations.context(context):
            step = revision.downgrade if back else revision.upgrade
            assert step is not None, revision.name
            step()
        database.backend.check_committed(connection)


def patiently(work: Callable[[], Result]) -> Result:
    """Runs `work`, and again where others hold locks that it needs. Raises what it raises."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work()
        except DBAPIError as error:
            if not _is_locked(error) or time.monotonic() >= until:
                raise
            _log.warning("a revision waits for locks that others hold", **{"error.cause": one_line(error.orig)})
            time.sleep(random.uniform(0.5, 1.5))  # for those who waited behind it


def _is_locked(error: DBAPIError) -> bool:
    """Whether others hold a lock that a revision needs."""
    return is_conflict(error) or getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _connection() -> sa.Connection:
    """On which each statement commits by itself."""
    from alembic import op

    if not op.get_context().opts.get(_STEPS):
        raise DatabaseError("a revision that works in steps has to say `in_one_transaction = False`")
    return op.get_bind()


@contextmanager
def _waiting_for_locks(connection: sa.Connection) -> Iterator[None]:
    """For what keeps nobody else waiting who uses the table."""
    _set_lock_timeout(connection, "0")
    yield
    _set_lock_timeout(connection, LOCK_TIMEOUT)


def _set_lock_timeout(connection: sa.Connection, timeout: str) -> None:
    """A pooler gives the session to others, so there it stays as it is."""
    if connection.dialect.name == "postgresql" and not connection.info[SESSION].pooled:
        connection.exec_driver_sql(f"SET lock_timeout = '{timeout}'")


def _in_transaction(connection: sa.Connection, work: Callable[[], object]) -> None:
    """SQLAlchemy takes it that each statement commits by itself, and so leaves BEGIN and COMMIT to this."""
    is_sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_sqlite else "BEGIN")
    try:
        if not is_sqlite:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        work()
    except BaseException:
        with suppress(DBAPIError):  # as the connection may be lost
            connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")
