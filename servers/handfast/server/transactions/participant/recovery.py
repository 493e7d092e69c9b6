"""Brings a branch to its end when its transaction is decided, or its time is up (rules 6 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from handfast.server.chassis.clock import Clock
from handfast.server.transactions.core.conflicts import may_abort
from handfast.server.transactions.core.model import Branch, BranchDecision
from handfast.server.transactions.participant.errors import CommittedChangeLost
from handfast.server.transactions.participant.finishing import BranchFinisher, FinishResult
from handfast.server.transactions.participant.resolver import Resolver
from handfast.server.transactions.participant.resource_type import M
from handfast.server.transactions.participant.store import Store


class Recovery(Generic[M]):
    def __init__(self, store: Store[M], finisher: BranchFinisher[M], resolver: Resolver, clock: Clock) -> None:
        self._store, self._finisher = store, finisher
        self._resolver, self._clock = resolver, clock

    def settle(self, transaction_id: str) -> Branch | None:
        """Finishes the branch if that can be, and returns None; else the branch, whose transaction is undecided. Raises
        CommittedChangeLost, CoordinatorUnavailable.
        """
        with self._store.database.read() as connection:
            branch = self._store.branches.find(connection, transaction_id)
        if branch is None:
            return None
        decisions = self.decisions([branch])
        if not decisions:
            return branch
        if FinishResult.LOST in self._finisher.finish(*decisions).values():
            raise CommittedChangeLost(transaction_id)
        return None

    def decisions(self, branches: Sequence[Branch]) -> list[BranchDecision]:
        """The decisions of these branches, learnt by one question to the coordinator. Those that are undecided are left
        out; but where their time is up, the coordinator is asked to abort them. Raises CoordinatorUnavailable.
        """
        decisions = []
        answers = self._resolver.ask([branch.transaction_id for branch in branches])
        for branch in branches:
            id_ = branch.transaction_id
            learnt = answers[id_]
            if may_abort(branch, learnt, self._clock()):
                learnt = self._resolver.abort(id_)
            if learnt is not None:
                decisions.append(BranchDecision.of(id_, learnt, self._store.participant))
        return decisions
