"""Which processors this process may use, and keeping its Python on one of them.

Python runs one of its threads at a time. Threads on several processors pass the interpreter's lock from one processor
to another at every database statement and every message, and waking another processor costs more than most of what is
done in between. On one processor they hand it over at almost no cost, and grpcio's own threads, which do without the
lock, have the others to themselves.
"""

from __future__ import annotations

import os

ANY = "any"
"""Wherever the system puts it."""


def usable_processors() -> list[int]:
    """Their numbers; none where the system cannot keep a thread to one, as only Linux can."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def spread(count: int) -> list[str]:
    """A processor of its own for each of so many servers. Those for which there is none left go where there is room:
    two that share one would wait for each other while another idles.
    """
    usable = usable_processors()
    own = usable if len(usable) > 1 else []
    return [*map(str, own[:count]), *[ANY] * (count - len(own))]


def keep_to(processor: str) -> None:
    """Keeps this thread, and those that it and they will start, to a processor. Other threads stay where they are."""
    if processor != ANY:
        os.sched_setaffinity(0, {int(processor)})  # 0 is the calling thread, not the process
