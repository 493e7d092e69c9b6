"""SQLite by file, which must stay the one that was opened.

Whoever removes the file of an SQLite database, or puts another in its place, takes no notice of who has it open; and
SQLite goes on to write into what nobody will find again (https://sqlite.org/howtocorrupt.html, section 4.2). The same
goes for the two files beside it, one of which has what was committed last. So after each read and each commit, before
anybody is told, the servers look whether the files are still there. That costs some microseconds.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

FULL = 2
"""PRAGMA synchronous = FULL."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_CURSORS = "cursors"
_Identity = tuple[int, int] | None


class SqliteFile:
    """The file at `path`. Its first connection makes it, unless it must exist; no later one makes it anew."""

    damage = ""
    """What SQLite said of it, once it found it damaged."""

    def __init__(self, path: Path, *, must_exist: bool, busy_timeout_s: float) -> None:
        self.path = path
        self.must_exist = must_exist
        self._busy_timeout_s = busy_timeout_s
        real = os.path.realpath(path)  # where SQLite has the other two, if `path` is a link
        self._files = (str(path), f"{real}-wal", f"{real}-shm")
        self._opening = threading.Lock()
        self._kept: sqlite3.Connection | None = None
        self._opened: dict[str, _Identity] = {}

    def engine(self, *, read_only: bool) -> sa.Engine:
        """Connections in autocommit. Cursors that SQLAlchemy opens on them are remembered, for `close_cursors`."""
        engine = sa.create_engine("sqlite://", creator=self.connect, poolclass=NullPool, hide_parameters=True)

        @event.listens_for(engine, "connect")
        def configure(connection: Any, record: Any) -> None:
            record.info[_CURSORS] = []
            if read_only:
                connection.execute("PRAGMA query_only = ON")

        @event.listens_for(engine, "after_cursor_execute")
        def remember(connection: sa.Connection, cursor: Any, *_: Any) -> None:
            connection.info[_CURSORS].append(cursor)

        return engine

    def connect(self) -> sqlite3.Connection:
        """Raises OperationalError where the file is no longer the one that was opened first."""
        with self._opening:
            if self._kept is None:
                # As long as one connection is open, the other two files stay, too.
                kept = self._connect("rw" if self.must_exist else "rwc")
                kept.execute("SELECT count(*) FROM sqlite_master").fetchone()  # which makes them
                self._opened = {file: _identity(file) for file in self._files}
                self._kept = kept
        self.check()  # first, as SQLite writes into what it opens
        connection = self._connect("rw")
        self.check()
        return connection

    def check(self) -> None:
        """Raises OperationalError where a file that holds data was removed or replaced since it was opened."""
        self._check(self._files[:2])

    def check_all(self) -> None:
        """`check`, and the same of the memory that processes share: others would no longer see this one's locks."""
        self._check(self._files)

    def _check(self, files: tuple[str, ...]) -> None:
        if self._kept is not None and any(_identity(file) != self._opened[file] for file in files):
            moved = sqlite3.OperationalError(f"{self.path} was removed or replaced while it was open")
            moved.sqlite_errorcode = sqlite3.SQLITE_READONLY_DBMOVED  # as SQLite has it, which seldom looks
            raise OperationalError(None, None, moved)

    def note_damage(self, error: DBAPIError) -> None:
        """Remembers it, where that is what the error says."""
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            self.damage = str(error.orig)

    def close(self) -> None:
        """After all other connections."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=self._busy_timeout_s, check_same_thread=False
        )
        connection.isolation_level = None  # sqlite3's own BEGINs would come too late, and not IMMEDIATE
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection


def close_cursors(connection: sa.Connection) -> bool:
    """Closes what was executed and not read to its end. It would hold up a COMMIT, and have all later reads of the
    connection see what was there when it began.
    """
    cursors = connection.info[_CURSORS]
    for cursor in cursors:
        cursor.close()
    cursors.clear()
    return True


def beginning(engine: sa.Engine) -> sa.Engine:
    """The same engine for transactions that SQLAlchemy begins, IMMEDIATE, and commits."""
    engine = engine.execution_options()

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _identity(path: str) -> _Identity:
    """None where there is none, such as a write-ahead log in a folder that SQLite cannot have one in."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
