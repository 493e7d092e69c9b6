"""Which processors this process may use, and keeping its Python on one of them. There threads pass the interpreter's
lock on at almost no cost, and grpcio's own threads, which do without the lock, have the others to themselves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

ANY = "any"
"""Wherever the system puts it."""


def usable_processors() -> list[int]:
    """Their numbers; none where the system cannot keep a thread to one, as only Linux can."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def spread(configured: Sequence[str]) -> list[str]:
    """The processor of each server. `configured` has one text for each: the processor that is set for it, or an empty
    text. A server with an empty text gets a processor that no other has. Where none is left it gets ANY: two servers
    that were kept on one processor would wait for each other while another processor is idle.
    """
    usable = usable_processors()
    free = iter([str(number) for number in usable if str(number) not in configured] if len(usable) > 1 else [])
    return [processor or next(free, ANY) for processor in configured]


def keep_to(processor: str, thread: int = 0) -> None:
    """Keeps a thread, this one unless its native id is given, and those that it will start, to a processor. Other
    threads stay where they are.
    """
    if processor != ANY:
        os.sched_setaffinity(thread, {int(processor)})  # 0 is the calling thread, not the process
