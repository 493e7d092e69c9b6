"""Lets replicas be restarted, killed, paused and cut off while clients call them, and checks what these saw: make
replicas ARGS=--help
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crashes.clients import Client
from tests.crashes.history import Event, check, save
from tests.crashes.killing import counts
from tests.crashes.settled import Freed, time_to_free
from tests.crashes.worker import stop_all
from tests.crashes.world import World
from tests.databases.postgresql import PostgreSQL, postgresql
from tests.kept import folder_of_run
from tests.replicas.callers import LITTLE, Alone, Call, Calls, Felt
from tests.replicas.faults import FAULTS, LASTS, ROLLING
from tests.replicas.servers import Replicas
from tests.serializability.checker import Anomaly

QUIET_S = 3.0
"""Seconds of calls before a fault, and after its end, at the most."""
FREE_WITHIN_S = 5.0
"""After the last round, within which everything must be free."""
ALONE = 4
"""Callers with a user of their own."""
SHOWN = 3
"""Of the calls that met a fault, the last ones."""
TRANSACTION_S = 15.0
"""That a transaction may take."""
LOGS = {"HANDFAST_LOG_LEVEL": "warning"}
AGAIN = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
"""Codes after which a caller may make the same call again, with its request id."""


@dataclass(frozen=True)
class Round:
    """What those felt that are alone, in the quiet before a fault and from the fault on, and which calls of all callers
    failed.
    """

    number: int
    fault: str
    victims: Sequence[str]
    before: Felt
    since: Felt
    all_calls: int
    failed: Counter[str]

    def __str__(self) -> str:
        whom = self.victims[0] if len(self.victims) == 1 else f"{len(self.victims)} replicas"
        lines = [
            f"{self.number:3}  {f'{self.fault}: {whom}':<28}  {self.since} (before it {self.before.longest:.1f} s); "
            f"{self.failed.total()} of {self.all_calls} failed",
            *(f"     {number} times {call}" for call, number in self.failed.most_common()),
            *(f"     {_when(call, self.since)}" for call in self.since.harmed[-SHOWN:]),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    rounds: Sequence[Round]
    history: Sequence[Event]
    violations: Sequence[Anomaly]
    freed: Sequence[Freed]

    @property
    def unexpected(self) -> Counter[str]:
        """Failures that no caller has to expect: any in a rolling restart, and otherwise those after which a call may
        not be made again. Calls that had little time are left out.
        """
        return Counter(
            {
                f"{each.fault}: {call}": number
                for each in self.rounds
                for call, number in each.failed.items()
                if not call.endswith(LITTLE) and (each.fault == ROLLING or call.split()[1] not in AGAIN)
            }
        )

    @property
    def acknowledged(self) -> int:
        """How many writes."""
        return sum(event.acknowledges_a_write for event in self.history)

    def stuck(self, seconds: float = FREE_WITHIN_S) -> list[Freed]:
        """What was not free after so many seconds."""
        return [each for each in self.freed if each.seconds > seconds]

    @property
    def good(self) -> bool:
        return not self.violations and not self.unexpected and not self.stuck()

    def __str__(self) -> str:
        outcomes = Counter(event.outcome.name.lower() for event in self.history)
        lines = [f"{len(self.history)} operations: {counts(outcomes)}; {self.acknowledged} writes acknowledged"]
        for fault in FAULTS:
            if of_it := [each for each in self.rounds if each.fault == fault]:
                since = [each.since for each in of_it]
                lines.append(
                    f"{fault}, {len(of_it)} times: {sum(len(each.harmed) for each in since)} of "
                    f"{sum(len(each.calls) for each in since)} calls met it, the last began after "
                    f"{_spread([each.seconds for each in since])}, the longest took "
                    f"{_spread([each.longest for each in since])}; "
                    f"{sum(each.failed.total() for each in of_it)} of {sum(each.all_calls for each in of_it)} failed"
                )
        lines += [
            f"everything free {max(each.seconds for each in self.freed):.1f} s after the last round",
            *(f"not free in time: {each}" for each in self.stuck()),
            *(f"unexpected, {number} times: {what}" for what, number in self.unexpected.items()),
            f"{len(self.violations)} violations",
            *map(str, self.violations[:10]),
        ]
        return "\n".join(lines)


def _when(call: Call, felt: Felt) -> str:
    return f"after {call.began - felt.since:.1f} s, for {call.seconds:.1f} s: {call}"


def _spread(times: Sequence[float]) -> str:
    return f"{sorted(times)[len(times) // 2]:.1f} s in the middle and {max(times):.1f} s at the most"


def upset(
    target: Replicas,
    faults: Mapping[str, float],
    *,
    rounds: int,
    clients: int,
    seed: str,
    quiet: float = QUIET_S,
) -> Report:
    """So many rounds of each of the faults, with the seconds that it lasts, on replicas with cables that are ready.
    Before a fault and after its end there are up to `quiet` seconds of calls.
    """
    world, history, stopping = World(), list[Event](), threading.Event()
    calls, calls_alone, chance = Calls(), Calls(), random.Random(seed)
    with contextlib.ExitStack() as stack:
        faces = [stack.enter_context(target.connect(interceptors=[calls])) for _ in range(clients)]
        world.create(faces[0])
        workers = [
            Client(f"c{number}", face, world, history, stopping, seed, TRANSACTION_S)
            for number, face in enumerate(faces)
        ]
        face_alone = stack.enter_context(target.connect(interceptors=[calls_alone]))
        alone = [Alone(f"a{number}", face_alone, stopping) for number in range(ALONE)]
        stack.callback(stop_all, [*workers, *alone], stopping)
        for worker in [*workers, *alone]:
            worker.start()
        done = list[Round]()
        for fault in [fault for _ in range(rounds) for fault in chance.sample(list(faults), len(faults))]:
            done.append(_round(target, len(done) + 1, fault, faults[fault], quiet, calls, calls_alone, chance))
            print(done[-1], flush=True)
        freed = time_to_free(faces[0], world, seed)
        stop_all(workers, stopping)
        workers[0].read_all()
    return Report(done, history, check(history, world.initial), freed)


@contextlib.contextmanager
def several(count: int, folder: Path, database: PostgreSQL) -> Iterator[Replicas]:
    """So many replicas of each server, with cables, which are ready."""
    replicas = Replicas(count, folder, database.create_databases("replicas_"), LOGS, cables=True)
    try:
        replicas.start()
        yield replicas
    finally:
        replicas.stop()


def _round(
    target: Replicas,
    number: int,
    fault: str,
    lasts: float,
    quiet: float,
    calls: Calls,
    calls_alone: Calls,
    chance: random.Random,
) -> Round:
    before = time.monotonic()
    time.sleep(chance.uniform(quiet / 2, quiet))
    began = time.monotonic()
    victims, end = FAULTS[fault](target, chance)
    time.sleep(lasts)
    end()
    for victim in victims:
        victim.wait_until_ready()
    time.sleep(quiet)
    alone = calls_alone.since(before)
    all_since = [*calls.since(began), *calls_alone.since(began)]
    return Round(
        number,
        fault,
        [each.log.stem for each in victims],
        before=Felt(before, [call for call in alone if call.ended < began]),
        since=Felt(began, [call for call in alone if call.ended >= began]),
        all_calls=len(all_since),
        failed=Counter(str(call) for call in all_since if call.failed),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make replicas ARGS=...", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each fault (5)")
    parser.add_argument("--only", choices=FAULTS, help="one fault instead of all")
    parser.add_argument("--replicas", type=int, default=3, help="of each server (3)")
    parser.add_argument("--clients", type=int, default=8, help="that call (8)")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    parser.add_argument("--keep", type=Path, help="an empty folder to leave logs and history in")
    chosen = parser.parse_args(argv)
    print(f"{chosen.replicas} replicas of each server, seed {chosen.seed}", flush=True)
    with (
        folder_of_run(chosen.keep, "replicas") as folder,
        postgresql() as database,
        several(chosen.replicas, folder, database) as target,
    ):
        report = upset(
            target,
            {fault: lasts for fault, lasts in LASTS.items() if chosen.only in (None, fault)},
            rounds=chosen.rounds,
            clients=chosen.clients,
            seed=chosen.seed,
        )
        save(report.history, folder / "history.jsonl")
    print(report, flush=True)
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
