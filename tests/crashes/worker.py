"""Clients that work in threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Sequence


class Worker(threading.Thread):
    """Does its `work`. Whoever joins it gets the exception that it ended by, if any."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._error: BaseException | None = None

    def work(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self._error = error

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        if self._error is not None:
            raise self._error


def stop_all(workers: Sequence[Worker], stopping: threading.Event) -> None:
    """Tells them by the event that they are to end, and waits until they have."""
    stopping.set()
    for worker in workers:
        worker.join()
