"""How many calls are in flight, and what is too many."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from handfast.server.chassis.call import Pool
from handfast.server.chassis.observe.record import Record


class Load:
    """Calls that arrived and have not ended, by pool: those that wait for a thread, and those that have one."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        self.pools = tuple(pools)
        self._lock = threading.Lock()
        self._in_flight = dict.fromkeys(self.pools, 0)
        self._shed = dict.fromkeys(self.pools, 0)

    def admit(self, pool: Pool) -> bool:
        """Counts a call in, unless the pool has as many as it takes."""
        with self._lock:
            if self._in_flight[pool] >= pool.limit:
                self._shed[pool] += 1
                return False
            self._in_flight[pool] += 1
            return True

    def ended(self, record: Record) -> None:
        if record.admitted:
            with self._lock:
                self._in_flight[record.call.method.pool] -= 1

    def in_flight(self, pool: Pool) -> int:
        return self._in_flight[pool]

    def shed(self, pool: Pool) -> int:
        """How many calls were refused since the start."""
        return self._shed[pool]
