"""One service's database: SQLite by file, or PostgreSQL by URL, through SQLAlchemy Core.

Reads are single statements in autocommit. Writes are local transactions: on SQLite one connection writes, and commits
all that wait together (`group_commit.py`); on PostgreSQL they are READ COMMITTED and take row locks. Either way they
run again after a serialization failure or a deadlock, and after nothing else.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, NoResultFound, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection

from handfast.server.chassis.cancellation import sleep
from handfast.server.chassis.data.backend import (
    PATIENCE_S,
    SESSION,
    Backend,
    DatabaseError,
    Session,
    as_sqlalchemy,
    discard,
    one_line,
    opened,
)
from handfast.server.chassis.data.sqlite import Sqlite
from handfast.server.chassis.errors import DatabaseConflict, DatabaseUnavailable
from handfast.server.chassis.errors.database import DEADLOCK_DETECTED, SERIALIZATION_FAILURE, kind_of
from handfast.server.process.settings import without_password

Result = TypeVar("Result")

WRITE_ATTEMPTS = 10
AWAY_S = 30.0
"""Seconds for which the commit that is tried waits before the standby counts as away. Health tells that to callers, who
then read nowhere, either."""
REFUSED_S = 5.0
"""Seconds for which nothing is written after a commit was given up, where no readiness check looks meanwhile."""


def key_text(length: int) -> sa.types.TypeEngine[str]:
    """Text that sorts by code point on every engine: pages of a list go by that order."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


class Database:
    """Opens nothing until it is used. `connections` is how many calls may read at once. A connection to PostgreSQL on
    which commits could be lost is not used; with `must_replicate` that goes for commits that wait for no standby, too.
    `read_only` leaves a file of SQLite as it is, and is for who only reads.
    """

    writing_failed = False
    """Whether a write failed by the database's own fault since one last succeeded that was tried for its sake."""

    def __init__(
        self,
        url: str,
        *,
        connections: int = 16,
        must_exist: bool = False,
        must_replicate: bool = False,
        read_only: bool = False,
    ) -> None:
        self.name = without_password(url)
        self.dialect = url.partition(":")[0].partition("+")[0]
        self.backend: Backend
        if self.dialect == "sqlite":
            self.backend = Sqlite(url, must_exist, read_only)
        elif self.dialect == "postgresql":
            # Here and below, as psycopg takes 40 ms of a start.
            from handfast.server.chassis.data.postgresql import Postgresql

            self.backend = Postgresql(url, must_replicate)
        else:
            raise DatabaseError("the database URL must begin with sqlite:// or postgresql://")
        self.engine = self.backend.engine
        self._kept = self.backend.kept = KeptConnections(self.backend.reader, connections)
        self._refused_until_monotonic_s = 0.0
        self._refused_why = ""
        self._here = threading.local()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection on which every statement stands alone."""
        connection = self._kept.take()
        try:
            with connection.info[SESSION].cancel_scope():
                yield connection
        except DBAPIError as error:
            self.backend.note(error)
            raise
        finally:
            self._kept.give_back(connection)
        self.backend.check_read()

    @contextmanager
    def read_durable(self) -> Iterator[sa.Connection]:
        """`read`, by one statement that locks what it reads, `FOR KEY SHARE`. Leaves the block once that is as durable
        as what `write` has returned for, and raises DBAPIError where it is not known to be.

        PostgreSQL shows a commit before its standby has it where somebody cancelled the wait for that, or where the
        server found it in its log when it started again. So this is for what tells that a write was done. It is itself
        a write to PostgreSQL, if it finds anything.
        """
        self._check_commits_are_answered()
        try:
            with self.read() as connection:
                try:
                    with connection.info[SESSION].durable():
                        yield connection
                except connection.dialect.dbapi.Error as error:  # type: ignore[union-attr]
                    raise as_sqlalchemy(connection, error, "COMMIT") from error
        except DBAPIError as error:
            self._note_unanswered(error)
            raise

    def write(self, work: Callable[[sa.Connection], Result], *, one_statement: bool = False) -> Result:
        """Runs `work` in one local transaction, durable when this returns; again where the database says that it lost
        to another. Of `one_statement`, which may be followed by reads, PostgreSQL makes a local transaction by itself,
        in one round trip; what `work` raises after it takes nothing back.

        `work` may run several times, so what it does besides its statements must not count. It must not call other
        services, as it holds locks; that it would `write`, commit, roll back or close by itself raises RuntimeError.
        Once an error has ended the local transaction, what `work` goes on to execute raises, too.

        Raises what `work` raises; DatabaseConflict when it keeps losing; DatabaseUnavailable when others take too long;
        DBAPIError where the database fails; and as `check_active` does where the call being served is over.
        """
        if self.is_writing_here():
            raise RuntimeError("a write within the work of another would wait for itself")
        self._check_commits_are_answered()
        for attempt in range(WRITE_ATTEMPTS):
            try:
                return self._try_to_write(work, one_statement)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in (SERIALIZATION_FAILURE, DEADLOCK_DETECTED):
                    self.backend.note(error)
                    self.writing_failed |= kind_of(error) is DatabaseUnavailable
                    self._note_unanswered(error)
                    raise
                sleep(random.uniform(0, 0.005 * 2**attempt))
        raise DatabaseConflict("The database kept choosing this call as the loser of a conflict.")

    def check_commits(self) -> bool:
        """Whether writes are sent, as one that is tried does not wait for a standby. As long as that waits no other is
        tried, so that they do not pile up. Raises DatabaseError where the standby has been away for long, and
        DBAPIError where the database fails."""
        waited_s = self._tried_wait_s() if self.backend.replicates else 0.0
        if not waited_s:
            self._refused_until_monotonic_s = 0.0
            return True
        self._refuse_commits("commits wait for the synchronous standby, so none is sent until it is back")
        if waited_s > AWAY_S:
            raise DatabaseError("commits wait for the synchronous standby, which is away")
        return False

    def _tried_wait_s(self) -> float:
        """Tries a commit, unless the last that was tried waits still."""
        from handfast.server.chassis.data.postgresql_connection import NoAnswer

        if waited_s := self._probe(self.backend.tried_wait_s):
            return waited_s
        try:
            self._probe(self.backend.try_commit)
            return 0.0
        except DBAPIError as error:
            if not isinstance(error.orig, NoAnswer):
                raise
        return self._probe(self.backend.tried_wait_s)

    def _note_unanswered(self, error: DBAPIError) -> None:
        """PostgreSQL keeps the session of a commit that was given up for as long as its standby is away. If more were
        sent, they would take all sessions that it can have, and all threads, which reads need."""
        if not self.backend.replicates:
            return
        from handfast.server.chassis.data.postgresql_connection import NoAnswer

        if isinstance(error.orig, NoAnswer):
            self.writing_failed = True
            self._refuse_commits("a commit was not answered, so none is sent until one that is tried is")

    def _refuse_commits(self, why: str) -> None:
        self._refused_why = why
        self._refused_until_monotonic_s = time.monotonic() + REFUSED_S

    def _check_commits_are_answered(self) -> None:
        if self._refused_until_monotonic_s and time.monotonic() < self._refused_until_monotonic_s:
            from handfast.server.chassis.data.postgresql_connection import NoAnswer

            raise OperationalError(None, None, NoAnswer(self._refused_why))

    def _try_to_write(self, work: Callable[[sa.Connection], Result], one_statement: bool) -> Result:
        return self.backend.write(partial(self._run, work), one_statement)

    def is_writing_here(self) -> bool:
        """Whether this thread runs the work of a `write`."""
        return getattr(self._here, "working", False)

    def insert_new(self, table: sa.Table) -> Any:
        """`INSERT … ON CONFLICT DO NOTHING`; its row count tells whether it inserted."""
        insert = sqlite.insert if self.dialect == "sqlite" else postgresql.insert
        # psycopg has no row count for an INSERT that returns nothing unless SQLAlchemy asks for it.
        return insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)

    def one_of(self, column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
        """Whether the column, of strings or of integers, has one of the values of the list that the statement is given
        under `name`. The list is one parameter however long it is, so that the statement stays the same.

        Strings with a NUL in them are not found; no column of PostgreSQL has such.
        """
        if self.dialect == "postgresql":
            return column == sa.any_(sa.bindparam(name, type_=sa.ARRAY(column.type)))
        items = sa.func.json_each(sa.bindparam(name, type_=sa.JSON)).table_valued("value")
        return column.in_(sa.select(items.c.value))

    def probe(self, query: sa.Select[*tuple[Any, ...]]) -> tuple[Any, ...]:
        """The one row of a query, on a connection that serves nothing else: that all others are busy
        says nothing of the database. Raises DBAPIError where it does not answer in time, or might lose commits."""
        sql = str(query.compile(dialect=self.backend.dialect, compile_kwargs={"literal_binds": True}))

        def ask(session: Session) -> list[tuple[Any, ...]]:
            return session.rows(sql, ())

        if rows := self._probe(ask):
            return rows[0]
        raise NoResultFound(f"no row of {sql}")

    def _probe(self, ask: Callable[[Session], Result]) -> Result:
        self.backend.check_all()
        with self.backend.prober.connect() as connection:
            try:
                answer = ask(connection.info[SESSION])
                self.backend.check_probed(connection)
                return answer
            except connection.dialect.dbapi.Error as error:  # type: ignore[union-attr]
                failed = as_sqlalchemy(connection, error, None)
                connection.invalidate()  # as its server may be gone
                self.backend.note(failed)
                raise failed from error

    def check(self) -> None:
        """Connects, and makes sure that what is committed survives a power cut. Raises DatabaseError."""
        try:
            with self.backend.autocommit.connect() as connection:  # so that it waits for nobody who migrates
                self.backend.check_durable(connection)
        except DBAPIError as error:
            raise DatabaseError(f"cannot open {self.name}: {one_line(error.orig)}") from error

    def close(self) -> None:
        self._kept.close()
        self.backend.prober.dispose()
        self.backend.close()

    def _run(self, work: Callable[[sa.Connection], Result], connection: sa.Connection) -> Result:
        self._here.working = True
        try:
            with connection.info[SESSION].cancel_scope():
                return work(connection)
        finally:
            self._here.working = False


class KeptConnections:
    """At most `limit` connections, opened when they are first needed and kept, for any thread to take one and give it
    back.

    SQLAlchemy's pool resets a connection whenever it comes back, and makes an object and its events for the next user:
    that costs more than most of what is done with it. A kept connection stays checked out.
    """

    def __init__(self, engine: sa.Engine, limit: int) -> None:
        self._engine, self._limit = engine, limit
        self._permits: SimpleQueue[None] = SimpleQueue()  # a semaphore, at a tenth of the cost of Python's own
        for _ in range(limit):
            self._permits.put(None)
        self._idle: list[sa.Connection] = []  # what was used last is used next; `append` and `pop` are atomic

    def take(self) -> sa.Connection:
        """One for the caller alone, until `give_back`. Raises sqlalchemy.exc.TimeoutError where none becomes free in
        time, and DBAPIError where none can be opened."""
        try:
            self._permits.get(timeout=PATIENCE_S)
        except Empty:
            raise NoConnection(f"none of {self._limit} connections became free in time") from None
        with suppress(IndexError):
            return self._idle.pop()
        try:
            return opened(self._engine)
        except BaseException:
            self._permits.put(None)
            raise

    def give_back(self, connection: sa.Connection) -> None:
        """One that is broken is closed, and all that are idle with it: the server that they led to may be gone."""
        try:
            if not connection.invalidated and connection.info[SESSION].reset():
                self._idle.append(connection)
            else:
                discard(connection)
                self.close()
        finally:
            self._permits.put(None)

    def close(self) -> None:
        """Closes those that are idle. Others can be opened afterwards."""
        with suppress(IndexError):
            while True:
                discard(self._idle.pop())
