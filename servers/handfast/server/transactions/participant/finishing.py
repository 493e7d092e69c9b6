"""Finishes branches: applies what their transactions committed, and drops the rest (rules 4 and 5)."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from typing import Generic

import sqlalchemy as sa
import structlog

from handfast.server.chassis.errors.database import is_conflict
from handfast.server.chassis.errors.mapping import cause_for_log
from handfast.server.transactions.core import finishing as rules
from handfast.server.transactions.core.finishing import Finish, Unchanged
from handfast.server.transactions.core.model import BranchDecision, UniqueKeyChange
from handfast.server.transactions.core.unique_keys import holders_after
from handfast.server.transactions.crash_points import reached
from handfast.server.transactions.participant.resource_type import M
from handfast.server.transactions.participant.store import Store

LOSS_ACCEPTED = "a branch is finished without operations that were committed and lost, as an operator accepted"
NO_LONGER_KNOWN = "a commit came again of a transaction that is no longer known here, whatever was staged of it"
LEFT_FOR_LATER = "a branch is not finished yet, as others hold what it needs"

_log = structlog.get_logger()


class FinishResult(enum.Enum):
    """CONFIRMED: the branch is finished by the decision. LOST: it cannot be, as a committed operation is neither held
    nor finished here, or the opposite is finished; nothing is changed then.
    """

    CONFIRMED = enum.auto()
    LOST = enum.auto()


class FinishBranches(Generic[M]):
    """Finishes several branches, each of them as a whole, by statements for many rows. A unit of work, whose result has
    what the rules say of each.
    """

    def __init__(self, store: Store[M], decisions: Sequence[BranchDecision]) -> None:
        self._store, self._decisions = store, decisions
        self._ids = [decision.transaction_id for decision in decisions]

    def __call__(self, connection: sa.Connection) -> list[Finish | Unchanged]:
        store = self._store
        branches = store.branches.lock_known(connection, self._ids)
        inserted = []  # to hold off stages that come late, until the rules have said what becomes of the branch
        for id_ in sorted(set(self._ids) - branches.keys()):
            found = store.branches.lock(connection, rules.unheard_of(id_))
            if found is None:
                inserted.append(id_)
            else:
                branches[id_] = found
        horizon = store.horizon.seen(connection) if inserted else ""
        operations = store.operations.of(connection, list(branches)) if branches else {}

        verdicts = [
            rules.finish(each, branches.get(each.transaction_id), horizon, operations.get(each.transaction_id, ()))
            for each in self._decisions
        ]
        finished = [verdict for verdict in verdicts if isinstance(verdict, Finish)]
        ids = [each.branch.transaction_id for each in finished]

        if finished:
            store.rows.save(connection, self._applied(finished))
            store.rows.unmark(connection, frozenset().union(*(each.dropped for each in finished)))
            if store.resources.has_unique_values:
                self._finish_unique_keys(connection, ids)
            store.operations.forget(connection, ids)
            store.branches.finish(connection, [each.branch for each in finished])
        if gone := [id_ for id_ in inserted if id_ not in ids]:
            store.branches.delete(connection, gone)
        for _ in finished:
            reached("participant.finishing")
        return verdicts

    def _applied(self, finished: Sequence[Finish]) -> list[tuple[str, M | None, str]]:
        return [
            (key, self._store.message(image), each.branch.transaction_id)
            for each in finished
            for key, image in each.applied.items()
        ]

    def _finish_unique_keys(self, connection: sa.Connection, ids: Sequence[str]) -> None:
        unique_keys = self._store.unique_keys
        changes: dict[str, list[UniqueKeyChange]] = unique_keys.changes(connection, ids)
        if not changes:
            return
        holders: dict[str, str | None] = {}
        for decision in self._decisions:
            holders |= holders_after(changes.get(decision.transaction_id, ()), decision.committed_count)
        touched = {change.value for of_one in changes.values() for change in of_one}
        unique_keys.save(connection, holders)
        unique_keys.unmark(connection, touched - holders.keys())
        unique_keys.forget_changes(connection, list(changes))


class BranchFinisher(Generic[M]):
    """Finishes branches, whoever asks for it. It is idempotent: what is finished is confirmed again."""

    def __init__(self, store: Store[M]) -> None:
        self._store = store
        self.on_lost: list[Callable[[], None]] = []
        """Called each time that something is found lost, whoever asked."""

    def finish(self, *decisions: BranchDecision) -> dict[str, FinishResult]:
        """Finishes these branches in one local transaction. Returns the result of each, by the transaction id."""
        verdicts = self._store.database.write(FinishBranches(self._store, decisions))
        return {
            decision.transaction_id: self._result(decision, verdict)
            for decision, verdict in zip(decisions, verdicts, strict=True)
        }

    def finish_all(
        self, decisions: Sequence[BranchDecision], go_on: Callable[[], bool]
    ) -> Iterator[tuple[str, FinishResult]]:
        """Finishes these branches, many in each local transaction, as long as `go_on` says so. Where a local
        transaction fails, its branches are finished one by one; one that needs what others keep for themselves is left
        out, and holds up no other.
        """
        sizes: dict[str, tuple[int, int]] = {}
        if len(decisions) > 1:
            with self._store.database.read() as connection:
                sizes = self._store.operations.sizes(connection, [each.transaction_id for each in decisions])
        for batch in rules.batches(decisions, sizes):
            if not go_on():
                return
            try:
                yield from self.finish(*batch).items()
            except Exception as error:
                if len(batch) > 1:
                    for decision in batch:
                        yield from self.finish_all([decision], go_on)
                elif is_conflict(error):
                    id_ = batch[0].transaction_id
                    _log.warning(LEFT_FOR_LATER, transaction_id=id_, **cause_for_log(error))
                else:
                    raise

    def _result(self, decision: BranchDecision, verdict: Finish | Unchanged) -> FinishResult:
        id_, count = decision.transaction_id, decision.committed_count
        match verdict:
            case Unchanged.LOST:
                for notify in self.on_lost:
                    notify()
                return FinishResult.LOST
            case Unchanged.PRUNED if count:
                _log.warning(NO_LONGER_KNOWN, transaction_id=id_)
            case Finish(held=held) if held < count:
                _log.warning(LOSS_ACCEPTED, transaction_id=id_, committed=count, applied=held)
        reached("participant.finished")
        return FinishResult.CONFIRMED
