"""Shows what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.harness import Result
from benchmarks.rows import Row


@dataclass(frozen=True)
class Measured:
    row: Row
    engine: str
    result: Result


HEAD = ("measured", "database", "itself", "beside", "ratio", "lowest to highest", "to reach", "")


def table(measured: Iterable[Measured]) -> str:
    """In Markdown."""
    lines = [HEAD, ("---", "---", "---:", "---:", "---:", "---", "---", "---"), *map(_cells, measured)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(each: Measured) -> tuple[str, ...]:
    row, result = each.row, each.result
    return (
        row.title,
        each.engine,
        f"{result.side:,.4g} {row.figure.value}",
        f"{result.beside:,.4g} {row.figure.value}",
        f"**{result.ratio:.2f}**",
        f"{result.ratios[0]:.2f} … {result.ratios[-1]:.2f}",
        str(row.goal),
        "reached" if row.goal.reached(result.ratio) else "missed",
    )
