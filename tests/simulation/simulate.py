"""The simulation's command line: `python -m tests.simulation.simulate 0-9999`.

simulate.py     this: many seeds on all cores, progress, the transcript of one that fails
profiles.py     what seeds draw their worlds from
world.py        one seed from start to end
scheduler.py    virtual time, tasks, processes that crash
engine.py       a database in memory: local transactions, locks, lost connections
statements.py   the servers' stores upon it
network.py      calls that are lost, repeated, delayed
servers.py      the servers' own classes, put together
bank.py         a service whose writes change several resources
clients.py      what callers do and conclude
transactions.py what they do in whole transactions
requests.py     what they ask for
oracle.py       what must hold
transcript.py   what happens, in words
without.py      each rule left out, which the simulation must notice
without_locks.py those of whole transactions
without_parts.py those of writes that change several resources
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tests.simulation.profiles import PROFILES
from tests.simulation.without import WITHOUT
from tests.simulation.world import run_seed, transcript_of

CHUNK = 20


@dataclass(frozen=True)
class Choice:
    """What is to run, besides the seeds."""

    profile: str
    rule: str
    """Which one is left out, if any."""

    def run(self, seed: int) -> str | None:
        return run_seed(seed, self.profile, without=WITHOUT.get(self.rule))

    def transcript(self, seed: int) -> str:
        return "\n".join(transcript_of(seed, self.profile, without=WITHOUT.get(self.rule)))


def run_chunk(job: tuple[Sequence[int], Choice]) -> tuple[int, list[tuple[int, str]]]:
    """How many seeds ran, and those that violate something."""
    seeds, choice = job
    gc.disable()
    failed = [(seed, failure) for seed in seeds if (failure := choice.run(seed)) is not None]
    gc.collect()
    return len(seeds), failed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulate", description="Runs the servers' protocol under seeded faults.")
    parser.add_argument("seeds", type=_seeds, help="one, such as 17, or from-to, such as 0-9999")
    parser.add_argument(
        "--profile",
        default="",
        choices=sorted(PROFILES),
        metavar="PROFILE",
        help=f"one of {', '.join(PROFILES)}; without it, seeds have one each",
    )
    parser.add_argument("--without", default="", choices=sorted(WITHOUT), metavar="RULE", help="leave a rule out")
    parser.add_argument("--transcript", action="store_true", help="print what happens, step by step")
    arguments = parser.parse_args(argv)
    logging.disable()
    seeds: range = arguments.seeds
    choice = Choice(arguments.profile, arguments.without)
    if arguments.transcript:
        print("\n".join(choice.transcript(seed) for seed in seeds))
    started = time.monotonic()
    done = 0
    jobs = ((list(seeds[at : at + CHUNK]), choice) for at in range(0, len(seeds), CHUNK))
    for count, failed in _on_all_cores(jobs, len(seeds)):
        done += count
        rate = done / (time.monotonic() - started)
        print(f"\r{done} of {len(seeds)} seeds, {rate:.0f} a second ", end="", file=sys.stderr, flush=True)
        for seed, failure in failed:
            print(f"\nseed {seed}: {failure}\n")
            print(choice.transcript(seed))
            return 1
    print(file=sys.stderr)
    print(f"{done} seeds, {done / (time.monotonic() - started):.0f} a second: nothing is violated")
    return 0


def _on_all_cores(
    jobs: Iterable[tuple[Sequence[int], Choice]], seeds: int
) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    if seeds <= CHUNK:
        yield from map(run_chunk, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        yield from pool.imap(run_chunk, jobs)


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    sys.exit(main())
