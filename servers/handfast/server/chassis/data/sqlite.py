"""SQLite as the backend of a `Database`: one connection writes, in groups; and the file stays the one that was opened.

Whoever removes the file of an SQLite database, or puts another in its place, takes no notice of who has it open; and
SQLite goes on to write into what nobody will find again (https://sqlite.org/howtocorrupt.html, section 4.2). The same
goes for the two files beside it, one of which has what was committed last. So after each read and each commit, before
anybody is told, the servers look whether the files are still there. That costs some microseconds.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from handfast.server.chassis.cancellation import cancel_scope
from handfast.server.chassis.data.backend import PATIENCE_S, SESSION, Backend, DatabaseError, flush
from handfast.server.chassis.data.group_commit import GroupCommit
from handfast.server.process.settings import sqlite_file, sqlite_url

Result = TypeVar("Result")

FULL = 2
"""PRAGMA synchronous = FULL."""
BUSY_S = 0.1
"""Seconds that SQLite waits by itself for another process that writes; nothing can cancel that."""
_Identity = tuple[bytes, int, int]
"""Of a file: its path, its device and its number there."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Sqlite(Backend):
    def __init__(self, url: str, must_exist: bool, read_only: bool) -> None:
        try:
            self._file = SqliteFile(sqlite_file(url), must_exist=must_exist or read_only, read_only=read_only)
        except ValueError as error:
            raise DatabaseError(f"the database URL {error}") from None
        self._damage = ""
        self.reader = self.prober = self._engine(read_only=True)
        self.autocommit = self._engine()
        self.engine = self._engine()
        event.listen(self.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        self.dialect = self.engine.dialect
        self._writes = GroupCommit(self._engine(within=True), self._file.check, PATIENCE_S)
        self.group_metrics = self._writes.metrics

    def write(self, work: Callable[[sa.Connection], Result], one_statement: bool) -> Result:
        return self._writes.write(work)

    def check_durable(self, connection: sa.Connection) -> None:
        if connection.exec_driver_sql("PRAGMA synchronous").scalar_one() < FULL:
            raise DatabaseError("SQLite runs with synchronous below FULL: commits would not be durable")

    def is_there(self) -> bool:
        return self._file.path.exists()

    def check_read(self) -> None:
        self._file.check()

    def check_all(self) -> None:
        self._file.check_all()
        if self._damage:
            raise OperationalError(None, None, sqlite3.DatabaseError(self._damage))

    def note(self, error: DBAPIError) -> None:
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            self._damage = str(error.orig)

    def close(self) -> None:
        self._writes.close()
        self._file.close()

    def _engine(self, *, read_only: bool = False, within: bool = False) -> sa.Engine:
        """Connections in autocommit. `within`: that take no statement but in a transaction that was begun before."""
        engine = sa.create_engine("sqlite://", creator=self._file.connect, poolclass=NullPool, hide_parameters=True)

        @event.listens_for(engine, "connect")
        def configure(connection: Any, record: Any) -> None:
            record.info[SESSION] = SqliteSession(connection, within)
            if read_only:
                connection.execute("PRAGMA query_only = ON")

        event.listen(engine, "before_cursor_execute", flush)

        @event.listens_for(engine, "after_cursor_execute")
        def remember(connection: sa.Connection, cursor: Any, *_: Any) -> None:
            connection.info[SESSION].cursors.append(cursor)

        return engine


class SqliteSession:
    """A `Session`. `within`: one that takes no statement but in a transaction that was begun before."""

    def __init__(self, driver: sqlite3.Connection, within: bool) -> None:
        self._driver, self._within = driver, within
        self.cursors: list[Any] = []
        """Those that SQLAlchemy opened since the last reset."""

    def rows(self, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
        self.flush()
        return self._driver.execute(sql, parameters).fetchall()

    def count(self, sql: str, parameters: Any) -> int:
        self.flush()
        return self._driver.execute(sql, parameters).rowcount

    def send(self, sql: str, each: Sequence[Any]) -> None:
        self.flush()
        self._driver.executemany(sql, each)

    def flush(self) -> None:
        """There is nothing to send. But an error may have ended the transaction, after which what a work that hides the
        error goes on to execute would commit by itself (https://sqlite.org/lang_transaction.html, section 3.1)."""
        if self._within and not self._driver.in_transaction:
            raise sqlite3.OperationalError("the local transaction was rolled back, and its work went on")

    def cancel_scope(self) -> AbstractContextManager[None]:
        return cancel_scope(self._driver.interrupt)

    def durable(self) -> AbstractContextManager[None]:
        """Nobody sees a commit before it is on the disk."""
        return nullcontext()

    def reset(self) -> bool:
        """Closes what was executed and not read to its end. It would hold up a COMMIT, and have all later reads of the
        connection see what was there when it began."""
        for cursor in self.cursors:
            cursor.close()
        self.cursors.clear()
        return True


class SqliteFile:
    """The file at `path`. Its first connection makes it, unless it must exist; no later one makes it anew. `read_only`:
    it keeps the journal that it has."""

    def __init__(self, path: Path, *, must_exist: bool, read_only: bool) -> None:
        self.path, self._must_exist, self._read_only = path, must_exist, read_only
        real = os.path.realpath(path)  # where SQLite has the other two, if `path` is a link
        self._files = [os.fsencode(file) for file in (path, f"{real}-wal", f"{real}-shm")]
        self._opening = threading.Lock()
        self._kept: sqlite3.Connection | None = None
        self._opened: tuple[_Identity, ...] = ()  # of which the first two hold data

    def connect(self) -> sqlite3.Connection:
        """Raises OperationalError where the file is no longer the one that was opened first."""
        with self._opening:
            if self._kept is None:
                self._open()
        self.check()  # first, as SQLite writes into what it opens
        connection = self._connect("rw")
        self.check()
        return connection

    def check(self) -> None:
        """Raises OperationalError where a file that holds data was removed or replaced since it was opened."""
        self._check(self._opened[:2])

    def check_all(self) -> None:
        """`check`, and the same of the memory that processes share: others would no longer see this one's locks."""
        self._check(self._opened)

    def close(self) -> None:
        """After all other connections."""
        if self._kept is not None:
            self._kept.close()
            self._kept, self._opened = None, ()

    def _check(self, opened: tuple[_Identity, ...]) -> None:
        for path, device, number in opened:
            try:
                found = os.stat(path)
            except OSError:
                break
            if found.st_ino != number or found.st_dev != device:
                break
        else:
            return
        moved = sqlite3.OperationalError(f"{self.path} was removed or replaced while it was open")
        moved.sqlite_errorcode = sqlite3.SQLITE_READONLY_DBMOVED  # as SQLite has it, which seldom looks
        raise OperationalError(None, None, moved)

    def _open(self) -> None:
        """As long as one connection is open, the other two files stay, too."""
        if self._must_exist and not self.path.exists():
            raise sqlite3.OperationalError(f"there is no {sqlite_url(self.path)}, and it must exist: was it removed?")
        kept = self._connect("rw" if self._must_exist else "rwc")
        kept.execute("SELECT count(*) FROM sqlite_master").fetchone()  # which makes them
        # In a folder in which SQLite can have no write-ahead log there is only one.
        found = [(file, os.stat(file)) for file in self._files if os.path.exists(file)]
        for log, _ in found[1:2]:
            _sync(log)
        self._opened = tuple((file, stat.st_dev, stat.st_ino) for file, stat in found)
        self._kept = kept

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=BUSY_S, check_same_thread=False
        )
        connection.isolation_level = None  # sqlite3's own BEGINs would come too late, and not IMMEDIATE
        if not self._read_only:
            _log_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Where others do the same to a new file, SQLite says at once that it is locked, and waits for nobody."""
    give_up_monotonic_s = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_monotonic_s:
                raise
            time.sleep(0.01)


def _sync(log: bytes) -> None:
    """A process that was killed in a COMMIT may have written to the log what is on no disk yet. SQLite shows that to
    whoever opens the file next, and nobody may go by what a power cut can still take away."""
    try:
        with open(log, "rb") as opened:
            os.fsync(opened.fileno())
    except OSError as error:
        raise sqlite3.OperationalError(f"{os.fsdecode(log)} cannot be written to its disk: {error.strerror}") from error
