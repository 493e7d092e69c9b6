"""Connections to one database that are opened once and kept, for any thread to take one and give it back.

SQLAlchemy's pool resets a connection whenever it comes back, and makes an object and its events for the next user: that
costs more than most of what is done with it. A kept connection stays checked out; to take it is one `pop` of a list. It
is one list rather than a connection for each thread, so that their number has a bound however many threads there are,
and nothing is to be done when a thread ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.exc import TimeoutError as NoConnection


class KeptConnections:
    """At most `limit` connections, opened when they are first needed.

    `reset` leaves a connection as the next user needs it, and says whether that was possible; else it is closed.
    """

    def __init__(self, engine: sa.Engine, limit: int, reset: Callable[[sa.Connection], bool]) -> None:
        self._engine, self._limit, self._reset = engine, limit, reset
        self._idle: list[sa.Connection] = []  # what was used last is used next; `append` and `pop` are atomic
        self._changed = threading.Condition()
        self._opened = self._waiting = 0

    def take(self, timeout_s: float) -> sa.Connection:
        """One for the caller alone, until `give_back`. Raises sqlalchemy.exc.TimeoutError where none becomes free in
        time, and DBAPIError where none can be opened."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._open_or_wait(timeout_s)

    def give_back(self, connection: sa.Connection) -> None:
        """One that is broken is closed, and all that are idle with it: the server that they led to may be gone."""
        if not connection.invalidated and self._reset(connection):
            self._idle.append(connection)
            if self._waiting:
                with self._changed:
                    self._changed.notify()
            return
        self._discard(connection)
        self.close()

    def close(self) -> None:
        """Closes those that are idle. Others can be opened afterwards."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            self._discard(connection)

    def _open_or_wait(self, timeout_s: float) -> sa.Connection:
        if (connection := self._wait(time.monotonic() + timeout_s)) is not None:
            return connection
        try:
            return begun(self._engine)
        except BaseException:
            self._closed()
            raise

    def _wait(self, until_monotonic_s: float) -> sa.Connection | None:
        """None where there is room for one more, which then is counted already."""
        with self._changed:
            self._waiting += 1  # before the first look, or what is given back in between would wake nobody
            try:
                while True:
                    with suppress(IndexError):
                        return self._idle.pop()
                    if self._opened < self._limit:
                        self._opened += 1
                        return None
                    left_s = until_monotonic_s - time.monotonic()
                    if left_s <= 0:
                        raise NoConnection(f"none of {self._limit} connections became free in time")
                    self._changed.wait(left_s)
            finally:
                self._waiting -= 1

    def _discard(self, connection: sa.Connection) -> None:
        try:
            connection.invalidate()  # or SQLAlchemy would roll back first, on what may be broken
            connection.close()
        finally:
            self._closed()

    def _closed(self) -> None:
        with self._changed:
            self._opened -= 1
            self._changed.notify()


def begun(engine: sa.Engine) -> sa.Connection:
    """A new connection that SQLAlchemy believes to be in one transaction for good, so that it neither begins nor ends
    any: that is left to whoever has it. Raises DBAPIError where none can be opened."""
    connection = engine.connect()
    connection.begin()
    return connection
