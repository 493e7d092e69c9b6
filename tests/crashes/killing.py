"""What dies, when, and for how long."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

from handfast.server.chassis.data import group_commit
from handfast.server.transactions import crash_points
from tests.crashes.suite import POSTGRESQL, Suite

LONGER = 30.0
"""Seconds that a run may go on for, until a first write has been acknowledged."""
PROGRESS_EVERY = 10.0
PATIENCE = 0.9
"""How often a kill waits until all servers are there again: else hardly any call would come through."""
LONGEST_PAUSE = 3.0
"""Seconds before a kill."""
RARELY, OFTEN = 200, 40
"""At the how manyth time, at the latest, a process dies at a point."""


def points(rarer: int = 1) -> str:
    """All named points, with their times; all `rarer` by this factor. Participants finish, and databases commit, far
    more often than anything else happens.
    """
    often = {point: OFTEN for point in crash_points.POINTS if not point.startswith("participant.")}
    times = {point: often.get(point, RARELY) * rarer for point in (*crash_points.POINTS, *group_commit.POINTS)}
    return ",".join(f"{point}:1-{last}" for point, last in times.items())


def kill_again_and_again(
    target: Suite,
    chance: random.Random,
    *,
    seconds: float,
    done: Callable[[], int],
    kills: int = sys.maxsize,
    longest_pause: float = LONGEST_PAUSE,
) -> None:
    """Until so many processes have been killed, or the time is up. `done` counts what clients have achieved."""
    victims = _victims(target, chance)
    for _ in _until(kills, seconds, target, done):
        if chance.random() < PATIENCE:
            target.wait_until_up()
        time.sleep(chance.uniform(0, longest_pause))
        target.kill(next(victims))


def _victims(target: Suite, chance: random.Random) -> Iterator[str]:
    """The database first, where it is a process, so that a short run kills it, too."""
    if target.database is None:
        while True:
            yield chance.choice(target.servers)
    yield POSTGRESQL
    while True:
        yield chance.choice((*target.servers, *target.servers, POSTGRESQL))


def _until(kills: int, seconds: float, target: Suite, done: Callable[[], int]) -> Iterator[None]:
    started = told = time.monotonic()
    while True:
        lasted, killed = time.monotonic() - started, target.kills().total()
        if (killed >= kills or lasted >= seconds) and (done() or lasted >= seconds + LONGER):
            return
        if time.monotonic() - told > PROGRESS_EVERY:
            told = time.monotonic()
            print(f"{lasted:4.0f} s  {killed:3} kills  {done()} acknowledged", flush=True)
        yield


def counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items())) or "none"
