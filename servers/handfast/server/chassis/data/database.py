"""One service's database: SQLite by file, or PostgreSQL by URL, through SQLAlchemy Core.

Reads are single statements in autocommit. Writes are local transactions: on SQLite one connection writes, and commits
all that wait together (`group_commit.py`); on PostgreSQL they are READ COMMITTED and take row locks. Either way they
run again after a serialization failure or a deadlock, and after nothing else.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.pool import NullPool

from handfast.server.chassis.cancellation import cancel_scope, check_active, sleep
from handfast.server.chassis.data.group_commit import GroupCommit
from handfast.server.chassis.data.postgresql import Session, cancellable, is_idle, migrating, postgresql_engine
from handfast.server.chassis.data.sqlite import FULL, SqliteFile, beginning, close_cursors
from handfast.server.chassis.data.statements import SESSION
from handfast.server.chassis.errors import DatabaseConflict, DatabaseUnavailable
from handfast.server.chassis.errors.database import DEADLOCK_DETECTED, SERIALIZATION_FAILURE, failure_of
from handfast.server.process.settings import sqlite_file, without_password

Result = TypeVar("Result")

WRITE_ATTEMPTS = 10
PATIENCE_S = 5.0
"""Seconds to wait for a connection, or for the turn to write, at the most."""
BUSY_S = 0.1
"""Seconds that SQLite waits by itself for another process that writes; nothing can cancel that."""


class DatabaseError(Exception):
    """The database cannot be used, in words for the operator."""


def key_text(length: int) -> sa.types.TypeEngine[str]:
    """Text that sorts by code point on every engine: pages of a list go by that order."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


class Database:
    """Opens nothing until it is used. `connections` is how many calls may read at once."""

    writing_failed = False
    """Whether a write failed by the database's own fault since one last succeeded that was tried for its sake."""

    def __init__(self, url: str, *, connections: int = 16, must_exist: bool = False) -> None:
        self.name = without_password(url)
        self.dialect = url.partition(":")[0].partition("+")[0]
        self._file: SqliteFile | None = None
        self._writes: GroupCommit | None = None
        self._here = threading.local()
        if self.dialect == "sqlite":
            try:
                self._file = file = SqliteFile(sqlite_file(url), must_exist=must_exist, busy_timeout_s=BUSY_S)
            except ValueError as error:
                raise DatabaseError(f"the database URL {error}") from None
            writer = file.engine(read_only=False)
            self.engine = beginning(writer)
            """The engine of transactions that SQLAlchemy begins and commits, for migrations."""
            self._writes = GroupCommit(partial(_begun, writer), close_cursors, file.check, PATIENCE_S)
            self._kept = _KeptConnections(file.engine(read_only=True), connections, close_cursors)
            self._prober = file.engine(read_only=True)
        elif self.dialect == "postgresql":
            engine = postgresql_engine(_parsed(url), poolclass=NullPool)
            self.engine = migrating(engine)
            self._kept = _KeptConnections(engine, connections, is_idle)
            self._prober = postgresql_engine(_parsed(url), pool_size=1, max_overflow=0, pool_timeout=PATIENCE_S)
        else:
            raise DatabaseError("the database URL must begin with sqlite:// or postgresql://")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection on which every statement stands alone."""
        connection = self._kept.take()
        try:
            with self._cancel_scope(connection):
                yield connection
        except DBAPIError as error:
            self._note_damage(error)
            raise
        finally:
            self._kept.give_back(connection)
        self._check_file()

    def write(self, work: Callable[[sa.Connection], Result], *, one_statement: bool = False) -> Result:
        """Runs `work` in one local transaction, durable when this returns; again where the database says that it lost
        to another. Of `one_statement`, which may be followed by reads, PostgreSQL makes a local transaction by itself,
        in one round trip; what `work` raises after it takes nothing back.

        `work` may run several times, so what it does besides its statements must not count. It must not call other
        services, as it holds locks, and not `write` itself, which raises RuntimeError.

        Raises what `work` raises; DatabaseConflict when it keeps losing; DatabaseUnavailable when others take too long;
        DBAPIError where the database fails; and as `check_active` does where the call being served is over.
        """
        if getattr(self._here, "working", False):
            raise RuntimeError("a write within the work of another would wait for itself")
        for attempt in range(WRITE_ATTEMPTS):
            try:
                return self._transact(work, one_statement)
            except DBAPIError as error:
                if not _lost_to_another(error):
                    self._note_damage(error)
                    failure = failure_of(error)
                    self.writing_failed |= failure is not None and failure.error is DatabaseUnavailable
                    raise
                sleep(random.uniform(0, 0.005 * 2**attempt))
        raise DatabaseConflict("The database kept choosing this call as the loser of a conflict.")

    def observe_groups(self, observe: Callable[[int, float], None]) -> None:
        """Has `observe` called with the size and the seconds of each group of writes, on SQLite, by the thread that
        commits it: it should be quick."""
        if self._writes is not None:
            self._writes.observe = observe

    def _transact(self, work: Callable[[sa.Connection], Result], one_statement: bool) -> Result:
        if self._writes is not None:
            return self._writes.write(partial(self._run, work))
        connection = self._kept.take()
        session: Session = connection.info[SESSION]
        try:
            if one_statement and not session.pooled:
                return self._run(work, connection, commits_itself=True)
            session.begin()
            result = self._run(work, connection)
            session.commit(connection)
            return result
        except BaseException:
            session.roll_back()
            raise
        finally:
            self._kept.give_back(connection)

    def _run(
        self, work: Callable[[sa.Connection], Result], connection: sa.Connection, *, commits_itself: bool = False
    ) -> Result:
        self._here.working = True
        try:
            with self._cancel_scope(connection):
                result = work(connection)
                if not commits_itself:
                    check_active()
                return result
        finally:
            self._here.working = False

    def _check_file(self) -> None:
        if self._file is not None:
            self._file.check()

    def _note_damage(self, error: DBAPIError) -> None:
        if self._file is not None:
            self._file.note_damage(error)

    def _cancel_scope(self, connection: sa.Connection) -> AbstractContextManager[None]:
        """When the call being served is over, the connection's statements fail."""
        driver: Any = connection.connection.driver_connection
        return cancel_scope(driver.interrupt) if self.dialect == "sqlite" else cancellable(driver)

    def insert_new(self, table: sa.Table) -> Any:
        """`INSERT … ON CONFLICT DO NOTHING`; its row count tells whether it inserted."""
        if self.dialect == "sqlite":
            from sqlalchemy.dialects.sqlite import insert as sqlite_insert

            return sqlite_insert(table).on_conflict_do_nothing()
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        # psycopg has no row count for an INSERT that returns nothing unless SQLAlchemy asks for it.
        return postgresql_insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)

    def one_of(self, column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
        """Whether the column, of strings or of integers, has one of the values of the list that the statement is given
        under `name`. The list is one parameter however long it is, so that the statement stays the same.

        Strings with a NUL in them are not found; no column of PostgreSQL has such.
        """
        if self.dialect == "sqlite":
            items = sa.func.json_each(sa.bindparam(name, type_=sa.JSON)).table_valued("value")
            return column.in_(sa.select(items.c.value))
        return column == sa.any_(sa.bindparam(name, type_=sa.ARRAY(column.type)))

    def probe(self, query: sa.Select[*tuple[Any, ...]]) -> sa.Row[*tuple[Any, ...]]:
        """The one row of a query, on a connection that serves nothing else: that all others are busy says nothing of
        the database."""
        with self._prober.connect() as connection:
            try:
                return connection.execute(query).one()
            except DBAPIError as error:
                self._note_damage(error)
                raise

    def check_file(self) -> None:
        """Raises DatabaseError where a file of SQLite is not the one that was opened, or turned out to be damaged."""
        if self._file is None:
            return
        try:
            self._file.check_all()
        except DBAPIError as error:
            raise DatabaseError(f"{self.name} is not there any more: {one_line(error.orig)}") from error
        if self._file.damage:
            raise DatabaseError(f"{self.name} is damaged: {self._file.damage}")

    def check(self) -> None:
        """Connects, and makes sure that what is committed survives a power cut. Raises DatabaseError."""
        if self._file is not None and self._file.must_exist and not self._file.path.exists():
            raise DatabaseError(f"there is no {self.name}, and it must exist: was it removed?")
        try:
            with self.engine.connect() as connection:
                if self.dialect == "postgresql":
                    for setting in ("fsync", "synchronous_commit"):
                        value = connection.exec_driver_sql(f"SHOW {setting}").scalar_one()
                        if value == "off":
                            raise DatabaseError(f"PostgreSQL runs with {setting} = off: commits would not be durable")
                elif connection.exec_driver_sql("PRAGMA synchronous").scalar_one() < FULL:
                    raise DatabaseError("SQLite runs with synchronous below FULL: commits would not be durable")
        except (DBAPIError, NoSuchModuleError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise DatabaseError(f"cannot open {self.name}: {one_line(cause)}") from error

    def close(self) -> None:
        if self._writes is not None:
            self._writes.close()
        self._kept.close()
        self.engine.dispose()
        self._prober.dispose()
        if self._file is not None:
            self._file.close()


class _KeptConnections:
    """At most `limit` connections, opened when they are first needed and kept, for any thread to take one and give it
    back.

    SQLAlchemy's pool resets a connection whenever it comes back, and makes an object and its events for the next user:
    that costs more than most of what is done with it. A kept connection stays checked out. `reset` leaves one as the
    next user needs it, and says whether that was possible; else it is closed.
    """

    def __init__(self, engine: sa.Engine, limit: int, reset: Callable[[sa.Connection], bool]) -> None:
        self._engine, self._limit, self._reset = engine, limit, reset
        self._free = threading.Semaphore(limit)
        self._idle: list[sa.Connection] = []  # what was used last is used next; `append` and `pop` are atomic

    def take(self) -> sa.Connection:
        """One for the caller alone, until `give_back`. Raises sqlalchemy.exc.TimeoutError where none becomes free in
        time, and DBAPIError where none can be opened."""
        if not self._free.acquire(timeout=PATIENCE_S):
            raise NoConnection(f"none of {self._limit} connections became free in time")
        try:
            return self._idle.pop()
        except IndexError:
            return self._open()

    def give_back(self, connection: sa.Connection) -> None:
        """One that is broken is closed, and all that are idle with it: the server that they led to may be gone."""
        try:
            if not connection.invalidated and self._reset(connection):
                self._idle.append(connection)
            else:
                _discard(connection)
                self.close()
        finally:
            self._free.release()

    def close(self) -> None:
        """Closes those that are idle. Others can be opened afterwards."""
        with suppress(IndexError):
            while True:
                _discard(self._idle.pop())

    def _open(self) -> sa.Connection:
        try:
            return _begun(self._engine)
        except BaseException:
            self._free.release()
            raise


def _begun(engine: sa.Engine) -> sa.Connection:
    """A new connection that SQLAlchemy believes to be in one transaction for good, so that it neither begins nor ends
    any: that is left to whoever has it. Raises DBAPIError where none can be opened."""
    connection = engine.connect()
    connection.begin()
    return connection


def _discard(connection: sa.Connection) -> None:
    connection.invalidate()  # or SQLAlchemy would roll back first, on what may be broken
    connection.close()


def one_line(cause: object) -> str:
    """The first line of what a driver says."""
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)


def _parsed(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (ArgumentError, ValueError):  # the latter where a port is no number
        raise DatabaseError("the database URL is not of the form postgresql://USER:PASSWORD@HOST:PORT/NAME") from None


def _lost_to_another(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in (SERIALIZATION_FAILURE, DEADLOCK_DETECTED)
