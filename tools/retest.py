"""Runs the tests, and those that failed once more by themselves, each in a process of its own.

    python tools/retest.py [PYTEST ARGUMENTS]

A test that passes then failed by chance: it is listed under `flaky:` with its first failure, and does not fail the run.
What fails twice does, and so does whatever is no failure of a test: one that cannot be collected, a crash of pytest or
of one of its workers (pytest-xdist), or a run without a test. Where many fail, that is no chance, and nothing is run
again.

The last line says how many passed and failed, as pytest's own does. The exit status is pytest's, or 0 where all that
failed passed alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST = 20
"""With more failures than this, none is run again."""
TESTS_FAILED = 1
"""pytest's exit status for a run that came to its end, with failures."""
CRASHED = 3
"""That for an internal error, here also for a process that ended without it."""


@dataclass
class Run:
    """What a run of pytest told of each test."""

    status: int
    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # and the first failure of each
    skipped: set[str] = field(default_factory=set)
    finished: bool = False
    crashed: bool = False  # a worker, in the middle of a test

    @property
    def complete(self) -> bool:
        return self.finished and not self.crashed

    def note(self, report: dict[str, Any]) -> None:
        match report:
            case {"$report_type": "SessionFinish"}:
                self.finished = True
            case {"when": "???"}:  # a worker ended in the middle of the test
                self.crashed = True
            case {"nodeid": test, "when": when, "outcome": outcome}:
                if outcome == "failed":
                    self.failed.setdefault(test, _failure(report["longrepr"]))
                elif outcome == "skipped":
                    self.skipped.add(test)
                elif when == "call":
                    self.passed.add(test)


def run(arguments: Sequence[str]) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "reports")
        # All of it, also where an argument says that the first failure is to end it.
        command = [sys.executable, "-m", "pytest", *arguments, "--maxfail=0", f"--report-log={log}"]
        result = Run(subprocess.run(command, check=False).returncode)
        for line in log.read_text().splitlines() if log.exists() else []:
            result.note(json.loads(line))
    if not result.complete:  # whatever the status of a process that was ended from inside
        result.status = result.status or CRASHED
    return result


def _failure(shown: Any) -> str:
    """The first line of what failed, and where. `shown` is a traceback as pytest writes it down, or text."""
    if isinstance(shown, dict) and shown.get("reprcrash"):
        crash = shown["reprcrash"]
        return f"{crash['path']}:{crash['lineno']}: {_first_line(crash['message'])}"
    return _first_line(str(shown))


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def main(arguments: Sequence[str]) -> int:
    began = time.monotonic()
    first = run(arguments)
    if first.status != TESTS_FAILED or not first.complete or not 0 < len(first.failed) <= MOST:
        return first.status
    flaky = []
    for test in first.failed:
        print(f"\nfailed once, and now alone: {test}", flush=True)
        again = run([test])
        if again.status == 0 and test in again.passed:
            flaky.append(test)
    if flaky:
        print("\nflaky:")
        for test in flaky:
            print(f"  {test}\n    {first.failed[test]}")
    print()
    print(_summary(first, flaky, time.monotonic() - began), flush=True)
    return TESTS_FAILED if len(flaky) < len(first.failed) else 0


def _summary(first: Run, flaky: Sequence[str], seconds: float) -> str:
    """In pytest's words."""
    failed = first.failed.keys() - flaky
    counts = [
        (len(failed), "failed"),
        (len(first.passed - failed | set(flaky)), "passed"),
        (len(first.skipped - first.failed.keys()), "skipped"),
    ]
    told = ", ".join(f"{count} {what}" for count, what in counts if count)
    return f" {told} in {seconds:.2f}s ".center(80, "=")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
