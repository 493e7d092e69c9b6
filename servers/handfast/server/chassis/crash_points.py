"""Points at which a server can be made to die as if its power were cut, so that tests can see what becomes of the rest.

HANDFAST_CRASH_AT names a point, or several with commas between them. `coordinator.staged` dies when the point is first
reached, `coordinator.staged:3` at the third time, and `coordinator.staged:1-50` at a time that each process draws for
itself. Without that variable a point costs one look at an empty dictionary.

coordinator.staged       all participants have staged; the decision is not written yet
coordinator.decided      the decision is durable; the caller has not been answered
finisher.telling         a participant is about to be told of decisions
finisher.told            it has confirmed; nothing of that is marked in the register
participant.staging      a staged change is written; its local transaction is not committed
participant.staged       it is committed; the caller has not been answered
participant.finishing    a branch is applied or dropped; its local transaction is not committed
participant.finished     it is committed; nobody has been told
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading

POINTS = (
    "coordinator.staged",
    "coordinator.decided",
    "finisher.telling",
    "finisher.told",
    "participant.staging",
    "participant.staged",
    "participant.finishing",
    "participant.finished",
)
VARIABLE = "HANDFAST_CRASH_AT"
_lock = threading.Lock()


def reached(point: str) -> None:
    """Ends this process where it is to end here."""
    if not _left:
        return
    with _lock:
        if point not in _left:
            return
        _left[point] -= 1
        if _left[point] > 0:
            return
        os.write(sys.stderr.fileno(), f"crash point {point}\n".encode())  # print would wait for others that print
        os.kill(os.getpid(), signal.SIGKILL)


def armed(points: str) -> dict[str, int]:
    """How many times each point is still to be reached. Raises ValueError for what is no such point or time."""
    left = {}
    for each in filter(None, points.split(",")):
        point, _, times = each.partition(":")
        first, _, last = (times or "1").partition("-")
        if point not in POINTS or not 0 < int(first) <= int(last or first):
            raise ValueError(f"{VARIABLE}: {each!r} is no point to crash at")
        left[point] = random.randint(int(first), int(last or first))
    return left


_left = armed(os.environ.get(VARIABLE, ""))
