"""Finishes a branch: applies what its transaction committed, or drops it, in one local transaction (rule 5)."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Generic

import sqlalchemy as sa
import structlog

from handfast.server.chassis.errors.mapping import cause_for_log
from handfast.server.transactions.core import participant as rules
from handfast.server.transactions.core.model import Branch, BranchState, Outcome
from handfast.server.transactions.crash_points import reached
from handfast.server.transactions.participant.resources import M
from handfast.server.transactions.participant.store import Store

LOSS_ACCEPTED = "a branch is finished without operations that were committed and lost, as an operator accepted"
NO_LONGER_KNOWN = "a committed transaction is told again that is no longer known here, whatever was staged of it"

_log = structlog.get_logger()


def log_left_for_later(transaction_id: str, error: Exception) -> None:
    _log.warning(
        "a branch is not finished yet, as others hold what it needs",
        transaction_id=transaction_id,
        **cause_for_log(error),
    )


class FinishResult(enum.Enum):
    CONFIRMED = enum.auto()
    LOST = enum.auto()


class _Lost(Exception):
    """Rolls the local transaction back."""


class _FinishedBefore(Exception):
    """Rolls back what was inserted for the lock: the branch was pruned."""


class Finishing(Generic[M]):
    def __init__(self, store: Store[M]) -> None:
        self._store = store
        self.on_lost: list[Callable[[], None]] = []
        """Called each time that something is found lost, whoever asked."""

    def finish(
        self, transaction_id: str, outcome: Outcome | None, named: int, loss_accepted: bool = False
    ) -> FinishResult:
        """Idempotent. LOST where a committed operation is neither held nor finished here, or the opposite is
        finished; then nothing is changed, unless an operator has accepted the loss. None for an outcome that the
        coordinator has forgotten.
        """
        try:
            held = self._store.database.write(
                lambda connection: self._finish(connection, transaction_id, outcome, named, loss_accepted)
            )
            if held < named:
                _log.warning(LOSS_ACCEPTED, transaction_id=transaction_id, committed=named, applied=held)
        except _Lost:
            for notify in self.on_lost:
                notify()
            return FinishResult.LOST
        except _FinishedBefore:
            if named:
                _log.warning(NO_LONGER_KNOWN, transaction_id=transaction_id)
        reached("participant.finished")
        return FinishResult.CONFIRMED

    def _finish(
        self, connection: sa.Connection, transaction_id: str, outcome: Outcome | None, named: int, loss_accepted: bool
    ) -> int:
        """Returns how many of the named operations are applied, now or before."""
        store = self._store
        branch = store.branches.lock_known(connection, transaction_id)
        branch = branch or store.branches.lock(connection, Branch(transaction_id, BranchState.OPEN, deadline=0))
        horizon = "" if branch else store.horizon.seen(connection)
        operations = store.operations.of(connection, transaction_id) if branch else []
        match rules.finish(transaction_id, branch, horizon, operations, outcome, named, loss_accepted):
            case rules.Confirmed.CONFIRMED if branch is None:
                raise _FinishedBefore
            case rules.Lost.LOST:
                raise _Lost
            case rules.Finished(done, applied, dropped):
                store.rows.save(
                    connection,
                    {key: self._message(image) for key, image in applied.items()},
                    last_transaction_id=transaction_id,
                )
                store.rows.unmark(connection, dropped)
                if store.resources.has_unique_values:
                    self._finish_claims(connection, transaction_id, named)
                store.operations.forget(connection, transaction_id)
                store.branches.save(connection, done)
                reached("participant.finishing")
                return min(named, len(operations))
        return named

    def _message(self, image: bytes | None) -> M | None:
        return None if image is None else self._store.resources.message_type.FromString(image)

    def _finish_claims(self, connection: sa.Connection, transaction_id: str, named: int) -> None:
        claims = self._store.claims
        changes = claims.changes(connection, transaction_id)
        holders = rules.holders_after(changes, named)
        claims.save(connection, holders)
        claims.unmark(connection, {change.value for change in changes} - holders.keys())
        claims.forget_changes(connection, transaction_id)
