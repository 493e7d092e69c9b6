"""The rows: what is measured beside what, and the ratio to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import sides
from benchmarks.harness import Figure, Goal, Side
from benchmarks.place import Place

SQLITE, POSTGRESQL = "sqlite", "postgresql"
Start = Callable[[Place], Side]


@dataclass(frozen=True)
class Row:
    """`name` is for the command line, `title` for the table. The two sides are functions of `sides.py`, whose
    docstrings say what they are. `figure` is what is compared, `callers` is how many call at a time, and `pinned` says
    that servers share one processor and callers have another.
    """

    name: str
    title: str
    side: Start
    beside: Start
    figure: Figure
    goal: Goal
    callers: int = 8
    pinned: bool = True
    engines: tuple[str, ...] = (SQLITE, POSTGRESQL)


def _cost(name: str, title: str, side: Start, echoes: float) -> Row:
    return Row(name, title, side, sides.echo, Figure.CPU, Goal(echoes))


TABLES = {
    "cost": (
        _cost("get-user", "GetUser", sides.get_user, 2.1),
        _cost("update-user", "UpdateUser", sides.update_user, 3.3),
        _cost("two-updates", "UpdateUser and UpdatePreferences, two calls", sides.two_updates, 7),
        _cost("atomic-update", "UpdateUserAndPreferences, finishing included", sides.atomic_update, 20),
    ),
}
"""Rows by table. `cost` is in echoes: the CPU time of a bare `grpc.server` that answers with a constant message."""
