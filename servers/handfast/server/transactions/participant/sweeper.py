"""Settles what nobody touches, and forgets what is long done. Every replica has one; they do each other no harm."""

from __future__ import annotations

import structlog

from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock
from handfast.server.chassis.data.idempotency import IdempotencyStore
from handfast.server.chassis.operations.periodic import Periodic
from handfast.server.transactions.horizon import id_at
from handfast.server.transactions.lost import Lost
from handfast.server.transactions.participant.errors import CommittedChangeLost, CoordinatorUnavailable, FinishingFailed
from handfast.server.transactions.participant.finishing import BranchFinisher, Finished
from handfast.server.transactions.participant.open_branches import OpenBranches
from handfast.server.transactions.participant.store import Store

SWEEP_INTERVAL_S = 1.0
"""On average."""
SWEEPS_PER_PRUNING = 60
BATCH = 200
YOUNG_US = 2 * MICROSECONDS_PER_SECOND
"""A transaction of this age is still on its way; the coordinator will tell."""
RETENTION_US = 3600 * MICROSECONDS_PER_SECOND
"""How long finished branches are kept, so that what comes late is refused one by one."""

_log = structlog.get_logger()


class Sweeper(Periodic):
    def __init__(
        self,
        store: Store,
        finisher: BranchFinisher,
        open_branches: OpenBranches,
        requests: IdempotencyStore,
        clock: Clock,
    ) -> None:
        super().__init__("sweeper", self._round, SWEEP_INTERVAL_S)
        self._store, self._finisher, self._requests, self._clock = store, finisher, requests, clock
        self._open_branches = open_branches
        self._rounds = 0
        self._lost = Lost()

    def _round(self) -> None:
        try:
            with self._store.database.read() as connection:
                self._open_branches.set(self._store.branches.unfinished_by_owner(connection))
            self.sweep()
        except CoordinatorUnavailable as error:
            _log.warning("the coordinator does not answer; trying again", error=error)
            return
        if self._rounds % SWEEPS_PER_PRUNING == 0:
            self.prune(self._clock() - RETENTION_US)
        self._rounds += 1

    def sweep(self) -> None:
        """Goes once through all branches that are not finished, from the oldest on. Those that are lost or fail, for
        which only an operator can do something, it tries less and less often.
        """
        unfinished = set[str]()
        after, swept_before = "", id_at(self._clock() - YOUNG_US)
        while not self.stopping:
            with self._store.database.read() as connection:
                branches = self._store.branches.unfinished(connection, after, BATCH)
            old = [branch for branch in branches if branch.transaction_id < swept_before]
            unfinished.update(branch.transaction_id for branch in old)
            due = [branch for branch in old if not self._lost.waits(branch.transaction_id)]
            for transaction_id, result in self._finisher.settle_all(due, lambda: not self.stopping) if due else ():
                if result is not Finished.CONFIRMED:
                    pause = self._lost.put_off(transaction_id)
                    kind = CommittedChangeLost if result is Finished.LOST else FinishingFailed
                    error = kind(transaction_id)
                    _log.error(str(error), transaction_id=transaction_id, tried_again_after_seconds=pause)
            if len(old) < BATCH:
                self._lost.keep(unfinished)
                return
            after = old[-1].transaction_id

    def prune(self, before_us: int) -> int:
        """Forgets finished branches of transactions that began before this time, in microseconds since the epoch, as
        far as the rules let it, and the answers of request ids whose time is up. Returns how many branches.
        """
        self._requests.prune(lambda: not self.stopping)
        return self._store.branches.prune(id_at(before_us), lambda: not self.stopping)
