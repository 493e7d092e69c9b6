"""How many files this process may have open, connections included."""

from __future__ import annotations

import contextlib
import resource
import sys


def limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def raise_limit() -> None:
    """To the most that this process is allowed. What it is by itself, often 1024, is for programs that use select(2),
    which cannot take more (https://0pointer.net/blog/file-descriptor-limits.html); Go does the same."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS has another limit beside this one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
