"""Many clients whose transactions each read two things of a few accounts, and write one of them.

Half of them go for any two accounts; the others for both sides of one account, which is write skew unless one of two
such transactions gives way. Beside these there are some that only read, and more than two, and calls on their own.
"""

from __future__ import annotations

import math
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from handfast.client import Aborted, FailedPrecondition, Suite, Transaction
from tests.crashes.transactions import PREFERENCES, USERS, Row
from tests.crashes.worker import Worker
from tests.crashes.world import Seen, World
from tests.serializability.checker import Anomaly, check
from tests.serializability.history import Outcome
from tests.serializability.history import Transaction as Noted

ACCOUNTS = 10
MANY = 6
"""How many accounts those look at that only read."""
PATIENCE = 60.0
"""Seconds within which each transaction must come through, however many others stand in its way."""


@dataclass(frozen=True)
class Report:
    """What each client has done, with how many attempts of transactions in all, and the longest that one took."""

    committed: Sequence[int]
    attempts: int
    longest: float
    history: Sequence[Noted]
    anomalies: Sequence[Anomaly]

    def __str__(self) -> str:
        lines = [
            f"{len(self.history)} transactions and calls of {len(self.committed)} clients, each {min(self.committed)} "
            f"to {max(self.committed)}; {self.attempts} attempts; the slowest took {self.longest:.1f} s",
            f"{len(self.anomalies)} anomalies",
            *map(str, self.anomalies[:5]),
        ]
        return "\n".join(lines)


class Rival(Worker):
    """Takes so many steps, or as many as it can until `stopping` is set."""

    def __init__(self, name: str, suite: Suite, world: World, seed: str, most: int, stopping: threading.Event) -> None:
        super().__init__(name)
        self.world, self.random = world, random.Random(f"{seed} {name}")
        self._suite, self._most, self._stopping = suite, most, stopping
        self.history: list[Noted] = []
        self.attempts, self.longest, self._count = 0, 0.0, 0

    def work(self) -> None:
        while len(self.history) < self._most and not self._stopping.is_set():
            self._count += 1
            self.step()

    def step(self) -> None:
        chance = self.random.random()
        if chance < 0.3:
            (row,) = self._rows(1)
            self.call(row, write=self.random.random() < 0.5)
        elif chance < 0.4:
            self.transact(self._rows(MANY))
        else:
            rows = self._rows(2) if chance < 0.7 else self.both_sides(self.random.choice(self.world.ids))
            self.transact(rows, self.random.choice(rows))

    def call(self, row: Row, *, write: bool) -> None:
        """A call on its own. One that writes does so only if nobody else did since it looked, so that it is known what
        it replaced; that it is refused is no step.
        """
        seen = Seen()
        etag = row.read(self._suite, seen) if write else ""
        began = time.monotonic()
        try:
            if write:
                row.write(self._suite, seen, f"{self.name}-{self._count}", etag)
            else:
                row.read(self._suite, seen)
        except (Aborted, FailedPrecondition):
            return
        self._note("call", began, seen)

    def transact(self, rows: Sequence[Row], written: Row | None = None) -> None:
        """Reads rows one after the other, and writes one, if any."""
        seen, began = Seen(), time.monotonic()

        def attempt(tx: Transaction) -> None:
            self.attempts += 1
            seen.operations.clear()
            for row in rows:
                row.read(tx, seen)
            if written is not None:
                written.write(tx, seen, f"{self.name}-{self._count}")

        self._suite.transact(attempt, timeout=PATIENCE)
        self._note("transaction", began, seen)

    def both_sides(self, user_id: str) -> list[Row]:
        return [Row(self.world, service, user_id) for service in (USERS, PREFERENCES)]

    def _rows(self, count: int) -> list[Row]:
        user_ids = self.random.sample(self.world.ids, count)
        return [Row(self.world, self.random.choice((USERS, PREFERENCES)), user_id) for user_id in user_ids]

    def _note(self, what: str, began: float, seen: Seen) -> None:
        ended = time.monotonic()
        self.longest = max(self.longest, ended - began)
        self.history.append(Noted(f"{self.name} {what}", began, ended, Outcome.COMMITTED, tuple(seen.operations)))


def compete(
    faces: Sequence[Suite],
    *,
    prefix: str,
    kind: type[Rival] = Rival,
    most: int = sys.maxsize,
    seconds: float = math.inf,
) -> Report:
    """Each of the clients runs so many transactions, or for so long, on accounts whose ids begin with `prefix`."""
    world, stopping = World(prefix, ACCOUNTS), threading.Event()
    world.create(faces[0])
    rivals = [kind(f"c{number}", face, world, prefix, most, stopping) for number, face in enumerate(faces)]
    for rival in rivals:
        rival.start()
    deadline = time.monotonic() + seconds
    for rival in rivals:
        rival.join(None if seconds == math.inf else max(0.0, deadline - time.monotonic()))
    stopping.set()
    for rival in rivals:
        rival.join()
    history = [each for rival in rivals for each in rival.history]
    return Report(
        [len(rival.history) for rival in rivals],
        sum(rival.attempts for rival in rivals),
        max(rival.longest for rival in rivals),
        history,
        check(history, World.initial),
    )
