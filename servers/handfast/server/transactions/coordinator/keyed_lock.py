"""Lets changes of the same resource go one after the other, before they stage anything.

The two sides of a change are staged side by side. So of two changes that meet, each may win one row, and wait-die then
throws away what both have staged; with many, nearly all work is thrown away. Nothing rests on this queue: plain writes
and other replicas pass it by, and wait-die settles what meets after all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from handfast.server.chassis.data.fair_lock import FairLock, TurnTimeout
from handfast.server.transactions.coordinator.errors import TooManyChanges

PATIENCE_SECONDS = 5.0
"""To wait at the most."""


class KeyedLock:
    """`waiting` is how many calls may wait at once, for whatever resources: those who wait hold a thread each."""

    def __init__(self, waiting: int) -> None:
        self._most = waiting
        self._guard = threading.Lock()
        self._calls: dict[str, int] = {}
        self._locks: dict[str, FairLock] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(self._calls.values()) - len(self._calls)

    @contextmanager
    def holding(self, resource: str) -> Iterator[None]:
        """Holds the lock of the resource; those who wait get it in the order in which they came. An empty name has no
        lock. Raises TooManyChanges where too many wait already, or when it takes too long."""
        if not resource:
            yield
            return
        lock = self._enter(resource)
        try:
            with lock.holding(PATIENCE_SECONDS):
                yield
        except TurnTimeout:
            raise TooManyChanges(resource) from None
        finally:
            self._leave(resource)

    def _enter(self, resource: str) -> FairLock:
        with self._guard:
            calls = self._calls.get(resource, 0)
            if calls and self.waiting >= self._most:
                raise TooManyChanges(resource)
            self._calls[resource] = calls + 1
            return self._locks.setdefault(resource, FairLock())

    def _leave(self, resource: str) -> None:
        with self._guard:
            self._calls[resource] -= 1
            if not self._calls[resource]:
                del self._calls[resource], self._locks[resource]
