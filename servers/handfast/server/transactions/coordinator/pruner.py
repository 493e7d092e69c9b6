"""Forgets decisions that are finished everywhere, and answers whose time is up."""

from __future__ import annotations

from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now
from handfast.server.chassis.operations.periodic import Periodic
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.reply_store import ReplyStore
from handfast.server.transactions.horizon import id_at

INTERVAL = 60.0
"""Seconds, on average."""
RETENTION = 24 * 3600 * MICROSECONDS_PER_SECOND
"""How long operators and callers can ask what became of a transaction."""


class Pruner(Periodic):
    def __init__(self, register: DecisionStore, answers: ReplyStore, clock: Clock = now) -> None:
        super().__init__("pruner", self._prune, INTERVAL)
        self._register, self._answers, self._clock = register, answers, clock

    def _prune(self) -> None:
        self._register.prune(id_at(self._clock() - RETENTION))
        self._answers.prune()
