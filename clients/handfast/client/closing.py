"""Keeps a channel of gRPC from what it cannot bear once it is closed: grpcio crashes the process where a method is
registered on such a channel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Gate:
    """Whether a channel is open. Usable from any thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # taken again where an object whose end needs the channel is collected in a block
        self._blocks = 0
        self._is_closed = False

    @contextmanager
    def open(self) -> Iterator[None]:
        """For a block that registers methods: it is not closed meanwhile. Raises ValueError where it is closed."""
        with self.lock:
            if self._is_closed:
                raise ValueError("The channel is closed, and no stub can be made on it.")
            self._blocks += 1
            try:
                yield
            finally:
                self._blocks -= 1
                if self._is_closed and not self._blocks:
                    self._end()

    def close(self, end: Callable[[], object]) -> None:
        """`end` closes the channel itself, which may call back: now, or after the block of this thread that an object
        is collected in whose end closes the channel."""
        with self.lock:
            self._is_closed, self._end = True, end
            is_in_block = self._blocks > 0
        if not is_in_block:
            end()
