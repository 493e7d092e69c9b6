"""Sends the servers what no honest client would: python -m tests.fuzz.run --help

run.py          this: many examples on each database, progress, a summary
target.py       the suite under fire, and whether it is still well
methods.py      every method that it serves
messages.py     random messages of any type, from descriptors; odd.py has the scalars
plausible.py    what fields hold in requests that pass validation; world.py what of that only a running suite knows
wire.py         bytes that are no valid message, or one that nobody would send
metadata.py     other metadata, and paths; tests/http2.py sends the bytes that gRPC clients refuse to
callers.py      who calls: those who may, those who may not, and what each is to get
calls.py        calls as bytes, and all that comes back
attack.py       one method, or one server, under fire
refusals.py     what must hold of every error
readback.py     what must hold of all that is accepted
records.py      what the log and the counters say of it
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz import attack
from tests.fuzz.methods import GUARDED, METHODS, SERVICES
from tests.fuzz.target import DATABASES, Target, target


def steps(only: str) -> list[tuple[str, Callable[[Target, Any, int, str], None], Any]]:
    """All attacks that have `only` in their name: each with what is attacked."""
    found: list[tuple[str, Callable[[Target, Any, int, str], None], Any]] = []
    found += [(str(method), attack.request, method) for method in METHODS]
    found += [(f"{method}:intruders", attack.intruders, method) for method in GUARDED]
    found += [(f"{server}:path", attack.path, server) for server in SERVICES]
    found += [(f"{server}:headers", attack.headers, server) for server in SERVICES]
    return [step for step in found if only in step[0]]


def command(database: str, examples: int, seed: str, only: str) -> str:
    """Attacks the same again, in the same way."""
    return f"make fuzz ARGS='--database {database} --examples {examples} --seed {seed} --only {only}'"


def run(database: str, folder: Path, examples: int, seed: str, only: str) -> bool:
    """Whether nothing was found."""
    failed = []
    chosen = steps(only)
    with target(database, folder) as at:
        for number, (name, step, subject) in enumerate(chosen, 1):
            started, before = time.monotonic(), at.seen.endings.copy()
            try:
                step(at, subject, examples, seed)
                ending = _counts(at.seen.endings - before)
            except Exception:
                failed.append(name)
                again = command(database, examples, seed, name)
                ending = f"FAILED; again: {again}\n{traceback.format_exc(limit=-1)}"
            print(f"{number:3} of {len(chosen)}  {time.monotonic() - started:5.1f} s  {name}: {ending}", flush=True)
        for check in (at.check_health, at.check_data, at.check_records):
            try:
                check()
            except Exception:
                failed.append(check.__name__)
                traceback.print_exc(file=sys.stdout)
    print(f"{database}, seed {seed}: {at.seen.endings.total()} calls: {_counts(at.seen.endings)}")
    print(f"failed: {', '.join(failed)}" if failed else "nothing was found", flush=True)
    return not failed


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {code}" for code, count in counter.most_common())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=...", description="Fuzzes the servers.")
    parser.add_argument("--database", choices=(*DATABASES, "both"), default="both")
    parser.add_argument("--examples", type=int, default=300, help="for each method of each server (300)")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    parser.add_argument("--only", default="", help="part of a name, such as users: or CreateAccount")
    chosen = parser.parse_args(argv)
    good = True
    for database in DATABASES if chosen.database == "both" else (chosen.database,):
        print(f"{database}, seed {chosen.seed}, {chosen.examples} examples each", flush=True)
        with tempfile.TemporaryDirectory(prefix="handfast-fuzz-") as folder:
            good = run(database, Path(folder), chosen.examples, chosen.seed, chosen.only) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
