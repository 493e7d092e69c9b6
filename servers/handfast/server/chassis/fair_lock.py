"""A lock that serves those who wait in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairLock:
    """`threading.Lock` lets a thread that releases it take it again before others that wait: one that works through a
    long list would keep everybody else out.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Event] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._guard:
            return len(self._waiting)

    @contextmanager
    def holding(self, timeout: float) -> Iterator[None]:
        """Raises TimeoutError after `timeout` seconds of waiting."""
        self._acquire(timeout)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, timeout: float) -> None:
        turn = threading.Event()
        with self._guard:
            if not self._held:
                self._held = True
                return
            self._waiting.append(turn)
        if turn.wait(timeout):
            return
        with self._guard:
            if turn.is_set():  # it came just now
                return
            self._waiting.remove(turn)
        raise TimeoutError

    def _release(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()  # and it stays held
            else:
                self._held = False
