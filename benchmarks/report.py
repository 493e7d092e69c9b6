"""Shows what was measured: tables in Markdown, and a chart."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import Effort, Result
from benchmarks.rows import TABLES, Row

HERE = Path(__file__).parent
HEAD = ("measured", "beside", "database", "itself", "beside it", "ratio", "spread", "to reach", "", "CPU ratio")
TITLES = {
    "cost": "Server CPU of one call, in echoes",
    "guarantee": "What the guarantee costs",
    "peers": "Beside others",
    "growth": "With more data",
    "start": "Starting",
}
PACKAGES = ("grpcio", "protobuf", "sqlalchemy", "psycopg", "fastapi", "uvicorn", "grpc-server-kit", "dbos")


@dataclass(frozen=True)
class Measured:
    row: Row
    engine: str
    result: Result

    def __str__(self) -> str:
        verdict = "reached" if self.row.goal.reached(self.result) else "missed"
        return f"{self.row.name} on {self.engine}: {self.result.ratio:.2f} ({self.row.goal}: {verdict})"


def table(measured: Iterable[Measured]) -> str:
    """One row for each; the spread is the lowest and the highest ratio of a round."""
    lines = [HEAD, ["---:" if name in HEAD[3:6] else "---" for name in HEAD], *map(_cells, measured)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(each: Measured) -> Sequence[str]:
    row, result = each.row, each.result
    unit = row.figure.value
    return (
        row.title,
        row.beside_title,
        each.engine if len(row.engines) > 1 else "",
        f"{_digits(result.side)} {unit}",
        f"{_digits(result.beside)} {unit}",
        f"**{result.ratio:.2f}**",
        f"{result.ratios[0]:.2f} … {result.ratios[-1]:.2f}",
        f"{row.goal} {unit}" if row.goal.absolute else str(row.goal),
        "reached" if row.goal.reached(result) else "missed",
        "" if result.cpu_ratio is None else f"{result.cpu_ratio:.2f}",
    )


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def layers(measured: Iterable[Measured]) -> str:
    """Where the CPU time of a GetUser and of an atomic update goes, as differences between rows; nothing where a row is
    missing.
    """
    found = {(each.row.name, each.engine): each.result for each in measured}
    lines = [("CPU time of", "goes to", "database", "µs"), ("---", "---", "---", "---:")]
    for engine in ("sqlite", "postgresql"):
        empty = found.get(("empty-bare", "sqlite"))  # needs no database
        get_user, two_updates, atomic = (
            found.get((name, engine)) for name in ("get-user", "two-updates", "atomic-update")
        )
        if empty is None or get_user is None or two_updates is None or atomic is None:
            continue
        parts = (
            ("GetUser", "grpcio: HTTP/2, bytes, a thread", empty.beside),
            ("GetUser", "the chassis: log, metrics, errors, deadline", empty.side - empty.beside),
            ("GetUser", "the handler: checks, the query, the message", get_user.side - empty.side),
            ("UpdateUserAndPreferences", "two plain updates", two_updates.side),
            (
                "UpdateUserAndPreferences",
                "the guarantee: a third server, staging, the decision, finishing",
                atomic.side - two_updates.side,
            ),
        )
        lines += [(call, part, engine, f"{us:,.0f}") for call, part, us in parts]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if len(lines) > 2 else ""


def tables(measured: Sequence[Measured]) -> str:
    """All of them, each below its title."""
    parts = []
    for name, rows in TABLES.items():
        if chosen := [each for each in measured if each.row in rows]:
            parts.append(f"## {TITLES[name]}\n\n{table(chosen)}\n")
    if found := layers(measured):
        parts.append(f"## Where the time goes\n\n{found}\n")
    return "\n".join(parts)


def write(measured: Sequence[Measured], effort: Effort, folder: Path = HERE) -> None:
    """Writes results.md, and the chart that it shows."""
    (folder / "results.svg").write_bytes(chart(measured))
    machine = "\n".join(f"- {what}: {value}" for what, value in _machine().items())
    (folder / "results.md").write_text(
        f"# Results\n\n"
        f"`make bench` writes this page; [README.md](README.md) says what each row means. Medians of {effort.rounds} "
        f"rounds of {effort.seconds:g} s a side, both sides in turns, with the lowest and the highest ratio as the "
        f"spread. Ratios carry over to other machines, times do not.\n\n"
        f"{machine}\n\n![Server CPU of one call](results.svg)\n\n{tables(measured)}"
    )


def chart(measured: Iterable[Measured]) -> bytes:
    """The table `cost`: bars for each row, one for each database and one for what is to be reached."""
    import pygal  # only `make bench` installs it

    rows = TABLES["cost"]
    found = {(each.row, each.engine): each.result.ratio for each in measured}
    drawn = pygal.HorizontalBar(js=(), show_legend=True, print_values=True, legend_at_bottom=True, height=360)
    drawn.title = "Server CPU of one call, in echoes of a bare grpc.server"
    drawn.x_labels = [row.title for row in rows]
    for engine in ("sqlite", "postgresql"):
        drawn.add(engine, [_rounded(found.get((row, engine))) for row in rows])
    drawn.add("to reach", [row.goal.value for row in rows])
    rendered: bytes = drawn.render(is_unicode=False)
    return rendered


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _machine() -> Mapping[str, str]:
    processor = next(
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    described = ("git", "describe", "--always", "--dirty")
    commit = subprocess.run(described, cwd=HERE, capture_output=True, text=True).stdout.strip()
    packages = {name: version for name in PACKAGES if (version := _version(name))}
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}",
        "machine": f"{os.cpu_count()} x {processor}, {memory_gb:.0f} GB, {platform.platform()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "software": ", ".join(
            [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
            + [f"{name} {version}" for name, version in packages.items()]
        ),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
