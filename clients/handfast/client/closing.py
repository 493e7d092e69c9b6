"""Keeps a channel of gRPC from what it cannot bear once it is closed: grpcio crashes the process where a method is
registered on such a channel.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Whether a channel is open. Usable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False

    @contextmanager
    def open(self) -> Iterator[None]:
        """For a block that registers methods: it is not closed meanwhile. Raises ValueError where it is closed."""
        with self._lock:
            if self._is_closed:
                raise ValueError("The channel is closed, and no stub can be made on it.")
            yield

    def close(self) -> None:
        """Goes before the channel is closed itself, which may call back."""
        with self._lock:
            self._is_closed = True
