"""Forgets decisions that are finished everywhere, and replies whose time is up."""

from __future__ import annotations

from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now
from handfast.server.chassis.operations.periodic import Periodic
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.reply_store import ReplyStore
from handfast.server.transactions.horizon import id_at

INTERVAL_SECONDS = 60.0
"""On average."""
RETENTION_US = 24 * 3600 * MICROSECONDS_PER_SECOND
"""How long operators and callers can ask what became of a transaction."""


class Pruner(Periodic):
    def __init__(self, decisions: DecisionStore, replies: ReplyStore, clock: Clock = now) -> None:
        super().__init__("pruner", self._prune, INTERVAL_SECONDS)
        self._decisions, self._replies, self._clock = decisions, replies, clock

    def _prune(self) -> None:
        self._decisions.prune(id_at(self._clock() - RETENTION_US), lambda: not self.stopping)
        self._replies.prune(lambda: not self.stopping)
