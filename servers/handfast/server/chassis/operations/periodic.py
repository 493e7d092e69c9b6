"""Work that is done again and again beside the calls."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import structlog

from handfast.server.chassis.errors.mapping import cause_for_log

_log = structlog.get_logger()


class Periodic:
    """Does `work` about every so many seconds, in a thread of its own, between `start` and `stop`. A round that fails
    is logged, and the next one comes all the same. `name` is for logs and for the thread. It starts once.
    """

    def __init__(self, name: str, work: Callable[[], None], every: float) -> None:
        self._name, self._work, self._every = name, work, every
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether it is to stop: what a long round may look at."""
        return self._stopping.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Waits for a round under way, up to `timeout` seconds; not for one that calls this itself."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        # Not in step with other replicas.
        while not self._stopping.wait(self._every * random.uniform(0.5, 1.5)):
            try:
                self._work()
            except Exception as error:
                _log.error("a periodic task failed; trying again", task=self._name, **cause_for_log(error))
