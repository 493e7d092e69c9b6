"""Lets changes of the same resource go one after the other, before they stage anything.

The two sides of a change are staged side by side. So of two changes that meet, each may win one row, and wait-die then
throws away what both have staged; with many, nearly all work is thrown away. Nothing rests on this queue: plain writes
and other replicas pass it by, and wait-die settles what meets after all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from handfast.server.chassis.cancellation import cancel_scope, check_active
from handfast.server.chassis.errors import DomainError
from handfast.server.transactions.coordinator.errors import TooManyChanges
from handfast.server.transactions.core.model import Decision

PATIENCE_SECONDS = 5.0
"""To wait at the most."""


@dataclass(eq=False, slots=True)
class Turn:
    """Of a call that holds a lock. `committed` is to be set to the transaction that it has committed, if it has;
    `follows` is that of the call which has handed over the lock just now."""

    follows: Decision | None = None
    committed: Decision | None = None
    woken: threading.Event = field(init=False)  # made only where it has to wait


class KeyedLock:
    """`waiting` is how many calls may wait at once, for whatever resources: those who wait hold a thread each.

    A lock is handed to the call that has waited longest. `threading.Lock` would let one who releases it take it again.
    """

    def __init__(self, waiting: int) -> None:
        self._most = waiting
        self._guard = threading.Lock()
        self._held: dict[str, deque[Turn]] = {}  # for each resource whose lock is held, who waits for it

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, list(self._held.values())))

    @contextmanager
    def holding(self, resource: str) -> Iterator[Turn]:
        """Holds the lock of the resource; those who wait get it in the order in which they came. An empty name has no
        lock. Raises TooManyChanges where too many wait already, or when it takes too long; and as `check_active` does
        when the call being served is over."""
        if not resource:
            yield Turn()
            return
        turn = Turn()
        self._acquire(resource, turn)
        try:
            yield turn
        finally:
            self._release(resource, turn)

    def _acquire(self, resource: str, turn: Turn) -> None:
        with self._guard:
            queue = self._held.get(resource)
            if queue is None:
                self._held[resource] = deque()
                return
            if self.waiting >= self._most:
                raise TooManyChanges(resource)
            turn.woken = threading.Event()
            queue.append(turn)
        with suppress(DomainError), cancel_scope(turn.woken.set):
            turn.woken.wait(PATIENCE_SECONDS)
        with self._guard:
            if turn not in queue:  # it was handed the lock, perhaps just now
                return
            queue.remove(turn)
        check_active()
        raise TooManyChanges(resource)

    def _release(self, resource: str, turn: Turn) -> None:
        with self._guard:
            if queue := self._held[resource]:  # it stays held
                following = queue.popleft()
                following.follows = turn.committed
                following.woken.set()
            else:
                del self._held[resource]
