"""Ids that sort by when they were minted, and etags.

Ids are UUIDv7 (RFC 9562), with the milliseconds of the clock, and within one millisecond a counter in the random bits
(section 6.2, method 2).

No id is ahead of the clock, at whatever rate, and a clock that was ahead and is set right is followed at once: others
refuse what comes from the future. So ids sort as they were minted for as long as the clock does not go back. Libraries
choose otherwise: what uuid6 mints runs ahead by a millisecond for each id, and uuid-utils and `uuid.uuid7` of Python
3.14 stay ahead until the clock has caught up.
"""

from __future__ import annotations

import random
import secrets
import threading

from handfast.server.chassis.clock import Clock, now

_VERSION_AND_VARIANT = (7 << 76) | (0b10 << 62)


_COUNTER_BITS = 74


class Ids:
    """Mints ids. Threads may share one. The last `free_bits` of each are zeros, for the caller to fill; ids are unique
    and sort without them.
    """

    def __init__(self, clock: Clock = now, *, free_bits: int = 0) -> None:
        self._clock, self._free_bits = clock, free_bits
        self._bits = _COUNTER_BITS - free_bits
        self._step_bits = min(32, self._bits // 2)
        self._lock = threading.Lock()
        self._millisecond = self._counter = 0

    def mint(self) -> str:
        with self._lock:
            millisecond = self._clock() // 1000
            if millisecond == self._millisecond:
                self._counter += 1 + secrets.randbits(self._step_bits)
            else:  # the highest bit is left free, which is room for more ids than a millisecond has time for
                self._millisecond, self._counter = millisecond, secrets.randbits(self._bits - 1)
            counter = self._counter << self._free_bits
        high, low = divmod(counter, 1 << 62)
        digits = f"{millisecond << 80 | high << 64 | low | _VERSION_AND_VARIANT:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


new_id = Ids().mint
"""Mints an id of this process."""

ETAG_LENGTH = 16

_random = random.Random()  # etags need to be unique, not secret, and this costs no system call


def new_etag() -> str:
    """An etag that no other version of a resource has: ETAG_LENGTH hexadecimal digits."""
    return f"{_random.getrandbits(4 * ETAG_LENGTH):0{ETAG_LENGTH}x}"
