"""Brings a branch to its end when its transaction is decided, or its time is up (rules 6 and 7).

Nothing pending is dropped without a decision: that time is up only triggers an attempt to insert ABORTED.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from handfast.server.chassis.clock import Clock
from handfast.server.transactions.core.model import Branch, Decision
from handfast.server.transactions.core.reading import Learnt
from handfast.server.transactions.participant.errors import CommittedChangeLost
from handfast.server.transactions.participant.finishing import Finishing, FinishResult
from handfast.server.transactions.participant.resolver import Resolver
from handfast.server.transactions.participant.resources import M
from handfast.server.transactions.participant.store import Store


class Recovery(Generic[M]):
    def __init__(self, store: Store[M], finishing: Finishing[M], resolver: Resolver, clock: Clock) -> None:
        self._store, self._finishing = store, finishing
        self._resolver, self._clock = resolver, clock

    def settle(self, transaction_id: str) -> Branch | None:
        """Finishes the branch if that can be, and returns None; else the branch, whose transaction is undecided. Raises
        CommittedChangeLost, CoordinatorUnavailable.
        """
        with self._store.database.read() as connection:
            branch = self._store.branches.find(connection, transaction_id)
        if branch is None:
            return None
        return branch if self.settle_all([branch]) else None

    def settle_all(self, branches: Sequence[Branch]) -> list[Branch]:
        """The same for several, with one question to the coordinator. Returns those that are undecided."""
        undecided = []
        learnt = self._resolver.ask([branch.transaction_id for branch in branches])
        for branch in branches:
            decision = learnt[branch.transaction_id]
            if decision is None and branch.deadline < self._clock():
                decision = self._resolver.abort(branch.transaction_id)
            if decision is None:
                undecided.append(branch)
            else:
                self._finish(branch.transaction_id, decision)
        return undecided

    def _finish(self, transaction_id: str, learnt: Learnt) -> None:
        known = learnt if isinstance(learnt, Decision) else None
        outcome, named = (known.outcome, known.named(self._store.participant)) if known else (None, 0)
        loss_accepted = known is not None and self._store.participant in known.loss_accepted
        if self._finishing.finish(transaction_id, outcome, named, loss_accepted) is FinishResult.LOST:
            raise CommittedChangeLost(transaction_id)
