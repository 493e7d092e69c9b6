"""Kills the suite again and again while clients use it, and checks what they saw: python -m tests.crashes.run --help"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crashes import killing, money
from tests.crashes.clients import Client
from tests.crashes.history import Event, check, save
from tests.crashes.killing import counts
from tests.crashes.settled import Freed, time_to_free
from tests.crashes.suite import DATABASES, suite
from tests.crashes.worker import stop_all
from tests.crashes.world import World
from tests.kept import folder_of_run
from tests.serializability.checker import Anomaly

CALL_TIMEOUT = 2.0
"""Seconds, for each call of a client."""
FREE_WITHIN = 5.0
"""Seconds after the last restart within which everything must be free, on a machine that does nothing else."""


@dataclass(frozen=True)
class Report:
    history: Sequence[Event]
    violations: Sequence[Anomaly]
    kills: Counter[str]
    points: Counter[str]
    freed: Sequence[Freed]

    @property
    def acknowledged(self) -> int:
        return _acknowledged(self.history)

    def stuck(self, seconds: float = FREE_WITHIN) -> list[Freed]:
        """What was not free after so many seconds."""
        return [each for each in self.freed if each.seconds > seconds]

    def __str__(self) -> str:
        outcomes = Counter(event.outcome.name.lower() for event in self.history)
        lines = [
            f"{len(self.history)} operations: {counts(outcomes)}",
            f"{self.kills.total()} kills: {counts(self.kills)}",
            f"{self.points.total()} of them at named points: {counts(self.points)}",
            f"everything free {max(each.seconds for each in self.freed):.1f} s after the last restart",
            *(f"not free in time: {each}" for each in self.stuck()),
            f"{len(self.violations)} violations",
            *map(str, self.violations[:10]),
        ]
        return "\n".join(lines)


def crash(
    database: str,
    *,
    folder: Path,
    kills: int,
    seconds: float,
    clients: int,
    seed: str,
    longest_pause: float = killing.LONGEST_PAUSE,
) -> Report:
    """Runs until so many processes have been killed, or the time is up; then lets it settle, and checks."""
    world, history, stopping = World(), list[Event](), threading.Event()
    chance = random.Random(seed)
    with suite(database, folder) as target, contextlib.ExitStack() as stack:
        target.start(killing.points())
        faces = [stack.enter_context(target.connect(timeout=CALL_TIMEOUT)) for _ in range(clients)]
        world.create(faces[0])
        workers = [Client(f"c{number}", face, world, history, stopping, seed) for number, face in enumerate(faces)]
        stack.callback(stop_all, workers, stopping)
        for worker in workers:
            worker.start()
        killing.kill_again_and_again(
            target,
            chance,
            kills=kills,
            seconds=seconds,
            longest_pause=longest_pause,
            done=lambda: _acknowledged(history),
        )
        stopping.set()
        target.kill_all()
        target.start()
        with target.connect(timeout=CALL_TIMEOUT) as newcomer:  # other channels may wait before they connect again
            freed = time_to_free(newcomer, world, seed)
        stop_all(workers, stopping)
        workers[0].read_all()
        report_kills, points = target.kills(), target.points()
    return Report(history, check(history, world.initial), report_kills, points, freed)


def _acknowledged(history: Sequence[Event]) -> int:
    """How many writes."""
    return sum(event.acknowledges_a_write for event in history)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make crash ARGS=...", description=__doc__)
    parser.add_argument("--database", choices=(*DATABASES, "both"), default="both")
    parser.add_argument("--only", choices=("calls", "money"), help="what clients do (first calls, then money)")
    parser.add_argument("--kills", type=int, default=200, help="on each database, while clients call (200)")
    parser.add_argument("--seconds", type=float, default=1800, help="at the most, on each database (1800; money 60)")
    parser.add_argument("--clients", type=int, default=8, help="that call (8)")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    parser.add_argument("--keep", type=Path, help="an empty folder to leave data, logs and history in")
    chosen = parser.parse_args(argv)
    good = True
    for database in DATABASES if chosen.database == "both" else (chosen.database,):
        if chosen.only != "money":
            print(f"{database}, calls, seed {chosen.seed}", flush=True)
            with folder_of_run(chosen.keep and chosen.keep / f"{database}-calls", "crash") as folder:
                good = _calls(chosen, database, folder) and good
        if chosen.only != "calls":
            print(f"{database}, money, seed {chosen.seed}", flush=True)
            with folder_of_run(chosen.keep and chosen.keep / f"{database}-money", "crash") as folder:
                good = _money(chosen, database, folder) and good
    return 0 if good else 1


def _calls(chosen: argparse.Namespace, database: str, folder: Path) -> bool:
    report = crash(
        database, folder=folder, kills=chosen.kills, seconds=chosen.seconds, clients=chosen.clients, seed=chosen.seed
    )
    save(report.history, folder / "history.jsonl")
    print(report, flush=True)
    return not report.violations and not report.stuck() and report.kills.total() >= chosen.kills


def _money(chosen: argparse.Namespace, database: str, folder: Path) -> bool:
    seconds = min(chosen.seconds, money.SECONDS)
    report = money.move(database, folder=folder, seconds=seconds, clients=money.CLIENTS, seed=chosen.seed)
    print(report, flush=True)
    return not report.violations and report.acknowledged > 0


if __name__ == "__main__":
    sys.exit(main())
