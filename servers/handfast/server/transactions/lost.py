"""When a transaction that was found lost is tried again: after pauses that grow, as only an operator can mend it, and
there can be many of them.
"""

from __future__ import annotations

import time
from collections.abc import Set

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 5.0, 3600.0


class Lost:
    """The transactions that somebody found lost, each with when it is tried again."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[float, float]] = {}
        """When each is tried again, in seconds of `time.monotonic()`, and how long it waits until then."""

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._waiting)

    def waits(self, transaction_id: str) -> bool:
        again, _ = self._waiting.get(transaction_id, (0.0, 0.0))
        return time.monotonic() < again

    def put_off(self, transaction_id: str) -> float:
        """It is found lost, perhaps once more. Returns for how many seconds it waits now."""
        _, before = self._waiting.get(transaction_id, (0.0, 0.0))
        pause = min(2 * before, LAST_PAUSE_SECONDS) if before else FIRST_PAUSE_SECONDS
        self._waiting[transaction_id] = time.monotonic() + pause, pause
        return pause

    def keep(self, unfinished: Set[str]) -> None:
        """Forgets all others: they are finished."""
        self._waiting = {id_: times for id_, times in self._waiting.items() if id_ in unfinished}
