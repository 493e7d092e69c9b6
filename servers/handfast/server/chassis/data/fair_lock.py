"""A lock that serves those who wait in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from handfast.server.chassis.cancellation import cancel_scope, check_active
from handfast.server.chassis.errors import DomainError


class TurnTimeout(Exception):
    """The turn did not come in time. No TimeoutError, which what is done in a turn may raise."""


class _Turn:
    def __init__(self) -> None:
        self.awake = threading.Event()
        self.came = False


class FairLock:
    """`threading.Lock` lets a thread that releases it take it again before others that wait: one that works through a
    long list would keep everybody else out.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._waiting: deque[_Turn] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._guard:
            return len(self._waiting)

    @contextmanager
    def holding(self, timeout: float) -> Iterator[None]:
        """Raises TurnTimeout after `timeout` seconds of waiting, and as `check_active` does when the call being served
        is over.
        """
        self._acquire(timeout)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, timeout: float) -> None:
        turn = _Turn()
        with self._guard:
            if not self._held:
                self._held = True
                return
            self._waiting.append(turn)
        with suppress(DomainError), cancel_scope(turn.awake.set):
            turn.awake.wait(timeout)
        with self._guard:
            if turn.came:  # perhaps just now
                return
            self._waiting.remove(turn)
        check_active()
        raise TurnTimeout

    def _release(self) -> None:
        with self._guard:
            if self._waiting:
                turn = self._waiting.popleft()
                turn.came = True  # and it stays held
                turn.awake.set()
            else:
                self._held = False
