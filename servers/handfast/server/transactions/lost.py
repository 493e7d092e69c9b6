"""When a transaction that was found lost is tried again: after pauses that grow, as only an operator can mend it, and
there can be many of them.
"""

from __future__ import annotations

import time
from collections.abc import Set
from dataclasses import dataclass

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 5.0, 3600.0


@dataclass(frozen=True, slots=True)
class _PutOff:
    again: float
    pause: float


class Lost:
    """The transactions that somebody found lost, each with when it is tried again."""

    def __init__(self) -> None:
        self._found: dict[str, _PutOff] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._found)

    def waits(self, transaction_id: str) -> bool:
        found = self._found.get(transaction_id)
        return found is not None and time.monotonic() < found.again

    def put_off(self, transaction_id: str) -> float:
        """It is found lost, perhaps once more. Returns for how many seconds it waits now."""
        before = self._found.get(transaction_id)
        pause = FIRST_PAUSE_SECONDS if before is None else min(2 * before.pause, LAST_PAUSE_SECONDS)
        self._found[transaction_id] = _PutOff(time.monotonic() + pause, pause)
        return pause

    def keep(self, unfinished: Set[str]) -> None:
        """Forgets all others: they are finished."""
        self._found = {id_: found for id_, found in self._found.items() if id_ in unfinished}
