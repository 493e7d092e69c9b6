"""Forgets decisions that are finished everywhere, and answers whose time is up."""

from __future__ import annotations

import random
import threading

import structlog

from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now
from handfast.server.transactions.coordinator.answers import Answers
from handfast.server.transactions.coordinator.register import Register
from handfast.server.transactions.horizon import id_at

INTERVAL = 60.0
"""Seconds, on average."""
RETENTION = 24 * 3600 * MICROSECONDS_PER_SECOND
"""How long operators and callers can ask what became of a transaction."""

_log = structlog.get_logger()


class Pruner:
    """Runs in a thread of its own between `start` and `stop`."""

    def __init__(self, register: Register, answers: Answers, clock: Clock = now) -> None:
        self._register, self._answers, self._clock = register, answers, clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pruner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        self._stopping.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL * random.uniform(0.5, 1.5)):
            try:
                self._register.prune(id_at(self._clock() - RETENTION))
                self._answers.prune()
            except Exception:
                _log.exception("pruning failed; trying again")
