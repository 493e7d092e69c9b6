"""Lets a PostgreSQL of three nodes fail over again and again while clients use the suite on it, and checks what they
saw: make failover ARGS=--help
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crashes.clients import Client
from tests.crashes.history import Event, check, save
from tests.crashes.killing import counts
from tests.crashes.settled import Freed, time_to_free
from tests.crashes.suite import Suite
from tests.crashes.worker import stop_all
from tests.crashes.world import World
from tests.eventually import eventually
from tests.failover.cluster import PATIENCE, Cluster, cluster
from tests.failover.faults import FAULTS, LOSING, in_turns
from tests.kept import folder_of_run
from tests.serializability.checker import Anomaly

CALL_TIMEOUT = 2.0
"""Seconds, for each call of a client."""
FREE_WITHIN = 5.0
"""Seconds after the last round within which everything must be free."""
BACK_WITHIN = 30.0
"""Seconds after a fault within which writes are acknowledged again."""
LONGEST_PAUSE = 3.0
"""Seconds of work between two rounds, and of a fault that goes on after writes have come back."""


@dataclass(frozen=True)
class Round:
    """Seconds since the fault until writes came back, and until all three nodes followed each other again."""

    number: int
    fault: str
    primary: str
    back: float
    whole: float
    leader: str

    def __str__(self) -> str:
        return (
            f"{self.number:3}  {self.fault + ' at ' + self.primary:<40}  writes back after {self.back:5.1f} s  "
            f"whole after {self.whole:5.1f} s  {self.leader} leads"
        )


@dataclass(frozen=True)
class Report:
    rounds: Sequence[Round]
    history: Sequence[Event]
    violations: Sequence[Anomaly]
    freed: Sequence[Freed]

    @property
    def good(self) -> bool:
        return not self.violations and not self._late() and not self._stuck()

    def _late(self) -> list[Round]:
        return [each for each in self.rounds if each.back > BACK_WITHIN]

    def _stuck(self) -> list[Freed]:
        return [each for each in self.freed if each.seconds > FREE_WITHIN]

    def __str__(self) -> str:
        backs = sorted(each.back for each in self.rounds)
        outcomes = Counter(event.outcome.name.lower() for event in self.history)
        lines = [
            f"{len(self.history)} operations: {counts(outcomes)}; "
            f"{sum(event.acknowledges_a_write for event in self.history)} writes acknowledged",
            f"{len(self.rounds)} rounds: {counts(Counter(each.fault for each in self.rounds))}",
            f"writes back after {backs[len(backs) // 2]:.1f} s in the middle, {backs[-1]:.1f} s at the most; "
            f"{len(self._late())} later than {BACK_WITHIN:.0f} s",
            f"everything free {max(each.seconds for each in self.freed):.1f} s after the last round",
            *(f"not free in time: {each}" for each in self._stuck()),
            f"{len(self.violations)} violations",
            *map(str, self.violations[:10]),
        ]
        return "\n".join(lines)


def fail_over(folder: Path, *, synchronous: bool, rounds: int, clients: int, seed: str) -> Report:
    world, history, stopping = World(), list[Event](), threading.Event()
    chance = random.Random(seed)
    faults = in_turns(chance) if synchronous else itertools.repeat(LOSING)
    with contextlib.ExitStack() as stack:
        postgresql = stack.enter_context(cluster(folder, synchronous=synchronous))
        postgresql.wait_until_whole()
        target = Suite(folder, None, credits=False, urls=postgresql.create_databases())
        target.start()
        stack.callback(target.stop)
        faces = [stack.enter_context(target.connect(timeout=CALL_TIMEOUT)) for _ in range(clients)]
        world.create(faces[0])
        workers = [Client(f"c{number}", face, world, history, stopping, seed) for number, face in enumerate(faces)]
        stack.callback(stop_all, workers, stopping)
        for worker in workers:
            worker.start()
        done = []
        for number, fault in zip(range(1, rounds + 1), faults, strict=False):
            done.append(_round(postgresql, number, fault, history, chance))
            print(done[-1], flush=True)
        freed = time_to_free(faces[0], world, seed)
        stop_all(workers, stopping)
        workers[0].read_all()
    return Report(done, history, check(history, world.initial), freed)


def _round(postgresql: Cluster, number: int, fault: str, history: Sequence[Event], chance: random.Random) -> Round:
    primary = postgresql.wait_until_whole()
    time.sleep(chance.uniform(0, LONGEST_PAUSE))
    end = FAULTS[fault](postgresql, primary)
    before, began = len(history), time.monotonic()
    first = eventually(lambda: acknowledged_since(began, history[before:]), PATIENCE)
    if first is None:
        raise RuntimeError(f"no write came back within {PATIENCE:.0f} s of: {fault} at {primary}")
    time.sleep(chance.uniform(0, LONGEST_PAUSE))
    end()
    leader = postgresql.wait_until_whole()
    return Round(number, fault, primary, first.ended - began, time.monotonic() - began, leader)


def acknowledged_since(since: float, history: Sequence[Event]) -> Event | None:
    """The first write that began since then and was acknowledged."""
    return next((event for event in history if event.began >= since and event.acknowledges_a_write), None)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make failover ARGS=...", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="each with one fault (20)")
    parser.add_argument("--clients", type=int, default=8, help="that call (8)")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    parser.add_argument(
        "--asynchronous",
        action="store_true",
        help="acknowledge what no standby has, and succeed where the loss is found",
    )
    parser.add_argument("--keep", type=Path, help="an empty folder to leave configuration, data, logs and history in")
    chosen = parser.parse_args(argv)
    print(f"{'asynchronous' if chosen.asynchronous else 'synchronous'}, seed {chosen.seed}", flush=True)
    with folder_of_run(chosen.keep, "failover") as folder:
        report = fail_over(
            folder,
            synchronous=not chosen.asynchronous,
            rounds=chosen.rounds,
            clients=chosen.clients,
            seed=chosen.seed,
        )
        save(report.history, folder / "history.jsonl")
    print(report, flush=True)
    if chosen.asynchronous:
        return 0 if report.violations else 1
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
