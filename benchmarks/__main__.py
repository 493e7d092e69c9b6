"""Measures rows of `benchmarks/rows.py`, both sides in turns, and prints them as tables."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from benchmarks.harness import Effort, Result, compare
from benchmarks.place import Place, running_on
from benchmarks.report import Failed, Measured
from benchmarks.rows import POSTGRESQL, SQLITE, TABLES, Row

FULL = Effort(rounds=15, seconds=1.0)
QUICK = Effort(rounds=3, seconds=0.3)


def measure(rows: Sequence[Row], engines: Iterable[str], effort: Effort) -> Iterator[Measured | Failed]:
    """One after the other. What several rows need is started once."""
    planned = {
        (engine, pinned): [row for row in rows if engine in row.engines and row.pinned is pinned]
        for engine, pinned in itertools.product(engines, (True, False))
    }
    total, numbers, began = sum(map(len, planned.values())), itertools.count(1), time.monotonic()
    for (engine, pinned), of_place in planned.items():
        with tempfile.TemporaryDirectory(prefix="handfast-bench-") as folder, ExitStack() as stack:
            place = Place(Path(folder), engine, pinned, stack)
            for row in of_place:
                minutes = (time.monotonic() - began) / 60
                _progress(f"row {next(numbers)} of {total}, after {minutes:.1f} minutes: {row.name} on {engine}")
                found: Measured | Failed
                try:
                    found = Measured(row, engine, _measure(row, place, effort))
                except Exception as error:  # what is measured already is not lost
                    found = Failed(row, engine, f"{type(error).__name__}: {error}")
                    time.sleep(1)  # until its last calls are cancelled: they are not of the next row
                _progress(f"  {found}")
                yield found


def _measure(row: Row, place: Place, effort: Effort) -> Result:
    def progress(text: str) -> None:
        _progress(f"  {text}")

    side, beside = place.side(row.side), place.side(row.beside)
    with running_on(place.callers_on):
        return compare(side, beside, row.figure, row.callers, effort, progress)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [row.name for rows in TABLES.values() for row in rows]
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)} (all)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=f"of {', '.join(names)} (all)")
    parser.add_argument("--engine", choices=(SQLITE, POSTGRESQL), help="of the databases (both)")
    parser.add_argument("--quick", action="store_true", help="a first impression, without the rows that need long")
    parser.add_argument("--rounds", type=int, help=f"({FULL.rounds})")
    parser.add_argument("--seconds", type=float, help=f"of each turn ({FULL.seconds:g})")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results.md and its chart")
    options = parser.parse_args(argv)
    if unknown := set(options.tables) - TABLES.keys():
        parser.error(f"there is no table {', '.join(sorted(unknown))}")
    effort = QUICK if options.quick else FULL
    effort = Effort(options.rounds or effort.rounds, options.seconds or effort.seconds)
    engines = [options.engine] if options.engine else [SQLITE, POSTGRESQL]
    rows = [
        row
        for name in options.tables or TABLES
        for row in TABLES[name]
        if (row.quick or not options.quick) and (options.only is None or row.name in options.only)
    ]
    load_before = os.getloadavg()[0]
    found = list(measure(rows, engines, effort))
    print(report.tables(found))
    if options.write:
        report.write(found, effort, load_before)
    if failed := [each for each in found if isinstance(each, Failed)]:
        sys.exit(f"{len(failed)} of {len(found)} rows could not be measured")


if __name__ == "__main__":
    main()
