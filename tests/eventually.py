"""Waiting for what comes by itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 20.0
"""Seconds after which a test gives up on something that should take a few."""

Found = TypeVar("Found")


def eventually(look: Callable[[], Found], timeout: float = PATIENCE) -> Found | None:
    """Looks until there is something that counts as true, and returns it. What was seen last, where none comes in
    time; None where it was a file that was gone, as the files of a process are that ends meanwhile.
    """
    end = time.monotonic() + timeout
    while True:
        found = None
        with contextlib.suppress(FileNotFoundError):
            found = look()
        if found or time.monotonic() >= end:
            return found
        time.sleep(0.01)
