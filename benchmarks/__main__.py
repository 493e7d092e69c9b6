"""Measures rows of `benchmarks/rows.py`, both sides in turns, and prints them as tables."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import Effort, Result, compare
from benchmarks.place import Place, running_on
from benchmarks.report import Measured, table
from benchmarks.rows import POSTGRESQL, SQLITE, TABLES, Row

FULL = Effort(rounds=15, seconds=1.0)
QUICK = Effort(rounds=9, seconds=0.5)


def measure(rows: Iterable[Row], engines: Iterable[str], effort: Effort) -> Iterator[Measured]:
    """One after the other. What several rows need is started once."""
    for engine in engines:
        for pinned in (True, False):
            chosen = [row for row in rows if engine in row.engines and row.pinned is pinned]
            with tempfile.TemporaryDirectory(prefix="handfast-bench-") as folder, ExitStack() as stack:
                place = Place(Path(folder), engine, pinned, stack)
                for row in chosen:
                    yield Measured(row, engine, _measure(row, place, effort))


def _measure(row: Row, place: Place, effort: Effort) -> Result:
    def progress(text: str) -> None:
        print(f"{row.name} on {place.engine}, {text}", file=sys.stderr, flush=True)

    side, beside = place.side(row.side), place.side(row.beside)
    with running_on(place.callers_on):
        return compare(side, beside, row.figure, row.callers, effort, progress)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [row.name for rows in TABLES.values() for row in rows]
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)} (all)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=f"of {', '.join(names)} (all)")
    parser.add_argument("--engine", choices=(SQLITE, POSTGRESQL), help="of the databases (both)")
    parser.add_argument("--quick", action="store_true", help="a first impression instead of a measurement")
    parser.add_argument("--rounds", type=int, help=f"({FULL.rounds})")
    parser.add_argument("--seconds", type=float, help=f"of each turn ({FULL.seconds})")
    options = parser.parse_args()
    if unknown := set(options.tables) - TABLES.keys():
        parser.error(f"there is no table {', '.join(sorted(unknown))}")
    effort = QUICK if options.quick else FULL
    effort = Effort(options.rounds or effort.rounds, options.seconds or effort.seconds)
    engines = [options.engine] if options.engine else [SQLITE, POSTGRESQL]
    for name in options.tables or TABLES:
        rows = [row for row in TABLES[name] if options.only is None or row.name in options.only]
        print(f"{name}\n\n{table(list(measure(rows, engines, effort)))}\n", flush=True)


if __name__ == "__main__":
    main()
