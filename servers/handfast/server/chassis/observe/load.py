"""How many calls are in flight, what is too many, and when none are left."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable

from handfast.server.chassis.call import Pool
from handfast.server.chassis.observe.record import REFUSALS, Record, Refused

QUIET = 0.05
"""Seconds without a new call after which a server that drains may expect no more."""
_LOOK_EVERY = 0.005


class Load:
    """Calls that arrived and have not ended, by pool: those that wait for a thread, and those that have one. What is
    refused is in `REFUSALS` until it ends.
    """

    def __init__(self, pools: Iterable[Pool]) -> None:
        self.pools = (*pools, REFUSALS)
        self._lock = threading.Lock()
        self._in_flight = dict.fromkeys(self.pools, 0)
        self._shed = dict.fromkeys(self.pools, 0)
        self._draining: frozenset[Pool] = frozenset()
        self._last_refused = 0.0

    def admit(self, pool: Pool) -> Refused | None:
        """Counts a call in, unless its pool has as many as it takes, or drains."""
        with self._lock:
            refused = self._refused(pool)
            self._in_flight[pool if refused is None else REFUSALS] += 1
            return refused

    def _refused(self, pool: Pool) -> Refused | None:
        if pool in self._draining:
            self._last_refused = time.monotonic()
            return Refused.STOPPING
        if self._in_flight[pool] >= pool.limit:
            self._shed[pool] += 1
            return Refused.OVERLOADED
        return None

    def ended(self, record: Record) -> None:
        with self._lock:
            self._in_flight[record.pool] -= 1

    @property
    def draining(self) -> bool:
        return bool(self._draining)

    def in_flight(self, pool: Pool) -> int:
        return self._in_flight[pool]

    def shed(self, pool: Pool) -> int:
        """How many calls were refused for overload since the start."""
        return self._shed[pool]

    def drain(self, pools: Collection[Pool], timeout: float) -> bool:
        """Admits no more, and waits until those in flight have ended and callers have stopped coming. False where some
        have not ended after `timeout` seconds.
        """
        self._draining |= frozenset(pools)
        end = time.monotonic() + timeout
        while (busy := any(map(self.in_flight, pools))) or time.monotonic() < self._last_refused + QUIET:
            if time.monotonic() >= end:
                return not busy
            time.sleep(_LOOK_EVERY)
        return True
