"""Background work that is repeated while the server runs."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import structlog

from handfast.server.chassis.errors.mapping import cause_for_log

_log = structlog.get_logger()


class Periodic:
    """Calls `work` again and again between `start` and `stop`, in a thread of its own, with pauses of 0.5 to
    1.5 times `every` seconds. A round that raises is logged, and the next one follows. `name` is the name of the
    thread, and of the task in the log. It can be started once.
    """

    def __init__(self, name: str, work: Callable[[], None], every: float) -> None:
        self._name, self._work, self._every = name, work, every
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called; a long round should look at this."""
        return self._stopping.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Ends the work, and waits up to `timeout` seconds for a round under way, unless that round calls this."""
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
