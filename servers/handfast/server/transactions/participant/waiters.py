"""Who waits here for whom, so that nobody younger overtakes a transaction that waits (rule 7)."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event


@dataclass(slots=True, eq=False)
class Waiter:
    """A call of a transaction that waits for others. `resources` is what it has found in their hands, `blocker` the
    transaction that it has met last, and `blocker_finished` is set once that is finished here.
    """

    transaction_id: str
    first_attempt: str
    resources: set[str] = field(default_factory=set)
    blocker: str = ""
    blocker_finished: Event = field(default_factory=lambda: Event())

    def meets(self, blocker: str) -> None:
        self.blocker, self.blocker_finished = blocker, Event()


class Waiters:
    """The calls that wait in this process; as many as its threads at the most. Nothing relies on it: at another replica
    a younger transaction still gets ahead, and one that is finished there wakes nobody here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: set[Waiter] = set()

    def __bool__(self) -> bool:
        return bool(self._all)

    @contextmanager
    def waiting(self, transaction_id: str, first_attempt: str) -> Iterator[Waiter]:
        """A block in which a call may wait."""
        waiter = Waiter(transaction_id, first_attempt)
        with self._lock:
            self._all.add(waiter)
        try:
            yield waiter
        finally:
            with self._lock:
                self._all.remove(waiter)

    def older_than(self, first_attempt: str, resource: str) -> str | None:
        """The oldest transaction that waits for this resource, where it is older than the `first_attempt` of another;
        None where there is none."""
        with self._lock:
            older = [each for each in self._all if resource in each.resources and each.first_attempt < first_attempt]
        return min(older, key=lambda each: each.first_attempt).transaction_id if older else None

    def finished(self, transaction_ids: Container[str]) -> None:
        """Wakes those who wait for these transactions."""
        if not self._all:
            return
        with self._lock:
            for each in self._all:
                if each.blocker in transaction_ids:
                    each.blocker_finished.set()
