"""How many calls each identity may make in a time.

A token bucket for each identity, in the form of the generic cell rate algorithm (ITU-T I.371), which keeps one number
for each: when its bucket will be full again. Where there are too many identities, the one whose last call is longest
ago is forgotten.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from handfast.server.chassis.errors import TooManyCalls
from handfast.server.chassis.security.callers import FORWARD
from handfast.server.chassis.security.identity import Identity
from handfast.server.process.settings import ServerSettings

MAX_IDENTITIES = 10_000
"""How many of them are remembered."""

OF_SERVERS = frozenset({FORWARD, "branches.write", "transactions.resolve"})
"""Who has one of these scopes is a server of the suite. It calls for others, whose calls were counted where they came
in."""


class CallRate:
    """Lets each identity make `per_second` calls a second in the long run, and `burst` at once. Usable from any
    thread."""

    def __init__(self, per_second: int, burst: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._monotonic = per_second, burst, monotonic
        self._interval_s = 1 / per_second
        self._full_at_s: OrderedDict[str, float] = OrderedDict()  # by digest; the one that called last is at the end
        self._lock = threading.Lock()

    @classmethod
    def of(cls, settings: ServerSettings) -> CallRate | None:
        """None where the settings have no bound."""
        per_second = settings.calls_per_second_per_caller
        return cls(per_second, settings.calls_burst_per_caller) if per_second else None

    def check(self, identity: Identity) -> None:
        """Counts a call. Raises TooManyCalls, with the time until the caller may make the next one, where it is one too
        many; that one is not counted."""
        if not OF_SERVERS.isdisjoint(identity.scopes):
            return
        with self._lock:
            now_s = self._monotonic()
            full_at_s = max(now_s, self._full_at_s.get(identity.digest, now_s)) + self._interval_s
            wait_s = full_at_s - self._burst * self._interval_s - now_s
            # Rounding must not refuse a call that comes just when it was told to.
            if wait_s <= 1e-6:
                self._full_at_s[identity.digest] = full_at_s
                self._full_at_s.move_to_end(identity.digest)
                if len(self._full_at_s) > MAX_IDENTITIES:
                    self._full_at_s.popitem(last=False)
                return
        raise TooManyCalls(
            f"A caller may make {self._per_second} calls a second here, and {self._burst} at once.",
            retry_after=wait_s,
            calls_per_second=self._per_second,
            burst=self._burst,
        )
