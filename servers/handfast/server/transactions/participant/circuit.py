"""Keeps a coordinator that does not answer from taking all threads of a server.

A circuit breaker (Nygard, "Release It!"), and a bound on how many calls wait: each call that meets a pending change
waits for the coordinator in a thread that other calls need.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# In seconds.
ANSWER_TIMEOUT = 1.0
"""Within which the coordinator has to answer."""
CROWD_TIMEOUT = 0.1
"""For so long a call waits that finds no room: usually an answer takes a few milliseconds, and then nobody has to be
refused."""
OPEN = 0.5
"""For so long nobody asks again after a question that was not answered."""


class CircuitOpen(Exception):
    """The coordinator does not answer, or too many wait for it."""


class Circuit:
    """`room` is how many calls may wait for as long as an answer may take."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._waiting = 0
        self._unanswered = 0
        self._last_heard = 0.0  # when the last answer came, or later, when a question went out while none was open
        self._failed = False
        self._open_until = 0.0

    @contextmanager
    def waiting(self) -> Iterator[float]:
        """For a call that waits: gives the seconds that it may. Raises CircuitOpen where it should not begin to."""
        with self._lock:
            seconds = self._patience()
            self._waiting += 1
        try:
            yield seconds
        finally:
            with self._lock:
                self._waiting -= 1

    def _patience(self) -> float:
        now = time.monotonic()
        if now < self._open_until:
            raise CircuitOpen
        if self._failed and self._waiting:
            raise CircuitOpen  # one is enough to find out whether it is back
        if self._waiting < self._room:
            return 2 * ANSWER_TIMEOUT  # its question may come after another
        if self._unanswered and now - self._last_heard > CROWD_TIMEOUT:
            raise CircuitOpen
        return CROWD_TIMEOUT

    def asked(self) -> None:
        """A question goes out."""
        with self._lock:
            if not self._unanswered:
                self._last_heard = time.monotonic()
            self._unanswered += 1

    def answered(self, *, failed: bool) -> None:
        """A question was answered; or it failed, as nobody answered in time."""
        with self._lock:
            self._unanswered -= 1
            self._last_heard = time.monotonic()
            self._failed = failed
            if failed:
                self._open_until = self._last_heard + OPEN
