"""Points at which a server can be made to die as if its power were cut, so that tests can see what becomes of the rest.

HANDFAST_CRASH_AT names a point, or several with commas between them. `coordinator.staged` dies when the point is first
reached, `coordinator.staged:3` at the third time, and `coordinator.staged:1-50` at a time that each process draws for
itself. Without that variable a point costs one look at an empty dictionary.

Each package has points of its own, which begin with words of its own, such as `coordinator`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Collection

VARIABLE = "HANDFAST_CRASH_AT"


class CrashPoints:
    """The `points` that a package has. Raises ValueError where HANDFAST_CRASH_AT has another that begins as they do."""

    def __init__(self, points: Collection[str]) -> None:
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}  # how many times each point is still to be reached
        own = {point.partition(".")[0] for point in points}
        for each in filter(None, os.environ.get(VARIABLE, "").split(",")):
            point, _, times = each.partition(":")
            if point.partition(".")[0] not in own:
                continue
            first, _, last = (times or "1").partition("-")
            if point not in points or not 0 < int(first) <= int(last or first):
                raise ValueError(f"{VARIABLE}: {each!r} is no point to crash at")
            self._left[point] = random.randint(int(first), int(last or first))

    def reached(self, point: str) -> None:
        """Ends this process where it is to end here."""
        if point not in self._left:
            return
        with self._lock:
            self._left[point] -= 1
            if self._left[point] > 0:
                return
            os.write(sys.stderr.fileno(), f"crash point {point}\n".encode())  # print would wait for others that print
            os.kill(os.getpid(), signal.SIGKILL)
