"""Which processors this process may use, and keeping its Python on one of them.

Python runs one of its threads at a time. Threads on several processors pass the interpreter's lock from one processor
to another at every database statement and every message, and waking another processor costs more than most of what is
done in between. On one processor they hand it over at almost no cost, and grpcio's own threads, which do without the
lock, have the others to themselves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

ANY = "any"
"""Wherever the system puts it."""


def usable_processors() -> list[int]:
    """Their numbers; none where the system cannot keep a thread to one, as only Linux can."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def spread(told: Sequence[str]) -> list[str]:
    """A processor for each server. `told` says which ones are told theirs already, and has an empty text for the
    others: these get one of their own that nobody is told. Those for which there is none left go where there is room:
    two that share one would wait for each other while another idles.
    """
    usable = usable_processors()
    free = iter([str(number) for number in usable if str(number) not in told] if len(usable) > 1 else [])
    return [processor or next(free, ANY) for processor in told]


def keep_to(processor: str, thread: int = 0) -> None:
    """Keeps a thread, this one unless its native id is given, and those that it will start, to a processor. Other
    threads stay where they are.
    """
    if processor != ANY:
        os.sched_setaffinity(thread, {int(processor)})  # 0 is the calling thread, not the process
