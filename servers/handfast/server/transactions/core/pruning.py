"""How far a database may forget what is finished, alike for participants and the coordinator (rule 10)."""

from __future__ import annotations


def limit(wanted: str, oldest_unfinished: str | None) -> str:
    """Rule 10: below this id what is finished may be forgotten, but nothing that is as old as something unfinished, or
    younger.
    """
    return min(wanted, oldest_unfinished or wanted)


def next_horizon(horizon: str, after_forgotten: str) -> str:
    """Rule 10: `after_forgotten` is the first id after the newest that is forgotten. The horizon goes no further, or a
    clock that is ahead once would have all that is new refused until time has caught up; and it never goes back.
    """
    return max(horizon, after_forgotten)
