"""Writes of SQLite, which lets one connection write at a time: all that wait are committed together (group commit:
DeWitt et al., 1984).

Whoever finds nobody writing leads: it runs its own work and those of all that wait in one transaction, then hands the
lead to the first that came meanwhile. So there is no thread to start or to stop, and none to hand a lone write to. A
work is in one of these states, and leaves the queue under one lock:

    waiting     in the queue, in the order of arrival; its call's end or its own patience takes it out
    begun       taken out by a leader; from here on only the database ends it
    leading     taken out to lead the next group
    done        it has its result or its error, and its caller is told

The leader says BEGIN IMMEDIATE, runs each work in its caller's context, all but the first in a savepoint of its own,
and says COMMIT. Nobody is told anything before, as a refusal, too, may come from what a neighbour has changed. What can
fail:

    a work raises                      its savepoint is rolled back, and its neighbours stay; the first has none before
                                       it, so all is rolled back, and it is told without a COMMIT
    it ends the whole transaction, as  nothing of the group has happened: it gets its error, its neighbours run again,
    an interrupt or a full disk may    each alone
    COMMIT, the transaction is open    all is rolled back, and each runs again alone; one that is alone gets the error
    COMMIT, the transaction is gone    unknown (rule 11): all get the error, whatever else they were to get
    SAVEPOINT or RELEASE               all is rolled back, and each runs again alone
    ROLLBACK, or BEGIN as an older     the connection is closed, and what comes next opens another
    read is still open
    BEGIN, as another process writes   the leader tries again until its patience ends, then the next one leads; those
                                       that wait lose their patience meanwhile
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from handfast.server.chassis.cancellation import cancel_scope, check_active
from handfast.server.chassis.crash_points import CrashPoints
from handfast.server.chassis.data.backend import SESSION, as_sqlalchemy, discard, flush, opened
from handfast.server.chassis.data.metrics import GroupMetrics
from handfast.server.chassis.errors import DatabaseUnavailable, DomainError

Result = TypeVar("Result")
POINTS = {
    "group.committing": "the works of a group are done; they are not committed",
    "group.committed": "they are committed; no caller has been answered",
}
reached = CrashPoints(POINTS).reached

MOST_WORKS = 64
"""How many works a group has at the most."""
LONGEST_S = 0.010
"""Seconds after which a group takes no further work."""


class GroupCommit:
    """Runs works on one connection of `engine`, which is kept. As far as SQLAlchemy knows it is in one transaction for
    good; BEGIN and COMMIT go to the driver.

    `check` is called after each COMMIT, before anybody is told, and raises DBAPIError where what was committed will not
    be found.
    """

    def __init__(self, engine: sa.Engine, check: Callable[[], None], patience_s: float) -> None:
        self._engine, self._check, self._patience_s = engine, check, patience_s
        self.metrics = GroupMetrics()
        self._guard = threading.Lock()
        self._led = self._closed = False
        self._waiting: deque[_Write] = deque()
        self._connection: sa.Connection | None = None

    def write(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Runs `work`, perhaps twice, and returns once it is committed.

        Raises what `work` raises, DBAPIError where the database fails, DatabaseUnavailable where others take too long,
        and as `check_active` does when the call being served is over.
        """
        write = _Write(work)
        with self._guard:
            write.leads, self._led = not self._led, True
            if not write.leads:
                self._waiting.append(write)
        if not write.leads:
            self._wait(write)
        if write.leads:
            self._lead(write)
        result: Result = write.outcome()
        return result

    def close(self) -> None:
        """Closes the connection, once nobody writes. What is written afterwards opens another."""
        with self._guard:
            self._closed = self._led  # then by the last to lead
            if not self._led:
                self._discard()

    def _wait(self, write: _Write) -> None:
        """Until it is done, or is to lead."""
        try:
            with suppress(DomainError), cancel_scope(write.wake):
                write.sleep(self._patience_s)
            if not write.done and self._leave(write):
                check_active()
                raise DatabaseUnavailable("Other writes took too long.")
            while not (write.done or write.leads):
                write.sleep()
        except KeyboardInterrupt:
            self._leave(write)
            if write.leads:
                self._hand_over()
            raise

    def _leave(self, write: _Write) -> bool:
        """Takes it out of the queue. False where it has begun, or is to lead."""
        with self._guard, suppress(ValueError):
            self._waiting.remove(write)
            return True
        return False

    def _hand_over(self) -> None:
        """Lets the first that waits lead."""
        with self._guard:
            if self._waiting:
                following = self._waiting.popleft()
                following.leads = True
                following.wake()
                return
            if self._closed:
                self._closed = False
                self._discard()
            self._led = False

    def _lead(self, leader: _Write) -> None:
        group = [leader]
        try:
            for write in self._commit_group(group):
                self._commit_group([write], alone=True)
        except BaseException as error:  # of this thread, as no work's is raised here
            for write in group:  # first, as they would wait forever
                if not write.done:
                    write.finish(error)
            self._discard()
            raise
        finally:
            self._hand_over()
            for write in group[1:]:
                write.wake()

    def _commit_group(self, group: list[_Write], *, alone: bool = False) -> list[_Write]:
        """Commits the write that is in the group, with those that wait, which are added to it. Returns those that have
        to run again; the others are done.
        """
        first = group[0]
        try:
            connection, driver = self._begin(first)
        except Exception as error:
            first.finish(error)
            return []
        began_monotonic_s = time.monotonic()
        first.run(connection)
        if first.error is not None:
            first.done = True
            self._roll_back(driver)
            return []
        try:
            while not alone and len(group) < MOST_WORKS and time.monotonic() - began_monotonic_s < LONGEST_S:
                with self._guard:
                    if not self._waiting:
                        break
                    write = self._waiting.popleft()
                group.append(write)
                driver.execute("SAVEPOINT work")
                write.run(connection)
                if write.error is not None:
                    if not driver.in_transaction:
                        write.done = True
                        return group[:-1]
                    driver.execute("ROLLBACK TO work")
                driver.execute("RELEASE work")
        except sqlite3.Error:
            self._roll_back(driver)
            return group
        return self._commit(group, connection, driver, began_monotonic_s)

    def _begin(self, write: _Write) -> tuple[sa.Connection, Any]:
        """Returns the connection and its driver. Tries as long as the write has patience: its time runs from its
        arrival, as that of those that wait does, or groups would wait one after the other.
        """
        while True:
            write.check_active()
            if self._connection is None:
                self._connection = opened(self._engine)
            driver = _driver(self._connection)
            try:
                driver.execute("BEGIN IMMEDIATE")
                return self._connection, driver
            except sqlite3.Error as error:
                failure = as_sqlalchemy(self._connection, error, "BEGIN IMMEDIATE")
                code = getattr(error, "sqlite_errorcode", 0)
                if code != sqlite3.SQLITE_BUSY:
                    self._discard()
                late = time.monotonic() - write.arrived_monotonic_s >= self._patience_s
                if late or code & 0xFF != sqlite3.SQLITE_BUSY:
                    raise failure from error

    def _commit(
        self, group: list[_Write], connection: sa.Connection, driver: Any, began_monotonic_s: float
    ) -> list[_Write]:
        reached("group.committing")
        try:
            driver.execute("COMMIT")
            reached("group.committed")
            self._check()
        except (sqlite3.Error, DBAPIError) as error:
            if driver.in_transaction and len(group) > 1:
                self._roll_back(driver)
                return group
            for write in group:
                write.finish(as_sqlalchemy(connection, error, "COMMIT"))  # each thread raises one of its own
            self._roll_back(driver)
            return []
        for write in group:
            write.done = True
        self.metrics.add(len(group), time.monotonic() - began_monotonic_s)
        return []

    def _roll_back(self, driver: Any) -> None:
        try:
            if driver.in_transaction:
                driver.execute("ROLLBACK")
        except sqlite3.Error:
            self._discard()

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            discard(connection)


class _Write:
    """One work on its way."""

    def __init__(self, work: Callable[[sa.Connection], Any]) -> None:
        self.arrived_monotonic_s = time.monotonic()
        self.leads = self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._work, self._context = work, copy_context()
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def check_active(self) -> None:
        self._context.run(check_active)

    def run(self, connection: sa.Connection) -> None:
        """Runs the work in its caller's context, and closes the cursors that it left open: they would hold up COMMIT,
        or have later reads see what was there before."""
        self.result = self.error = None
        try:
            self.result = self._context.run(self._work, connection)
            self.check_active()
            flush(connection)  # raises where the work hid an error that has ended the transaction
        except BaseException as error:
            self.error = error
        connection.info[SESSION].reset()

    def finish(self, error: BaseException | None) -> None:
        self.error, self.done = error, True

    def wake(self) -> None:
        with suppress(RuntimeError):  # it is awake
            self._asleep.release()

    def sleep(self, seconds: float = -1) -> None:
        self._asleep.acquire(timeout=seconds)

    def outcome(self) -> Any:
        if self.error is None:
            return self.result
        try:
            raise self.error
        finally:
            self.error = None  # which refers to this frame


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection
