"""Finishes branches: applies what their transactions committed, and drops the rest (rules 4 and 5), once these are
decided, or their time is up (rules 6 and 7).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto

import sqlalchemy as sa
import structlog

from handfast.server.chassis.clock import Clock
from handfast.server.chassis.data.idempotency import IdempotencyStore
from handfast.server.chassis.errors import CallDeadlineExceeded, DatabaseUnavailable, DomainError
from handfast.server.chassis.errors.database import is_conflict, kind_of
from handfast.server.chassis.errors.mapping import cause_for_log
from handfast.server.chassis.tracing.spans import Phase, later_span
from handfast.server.transactions.core import finishing as rules
from handfast.server.transactions.core.conflicts import may_abort
from handfast.server.transactions.core.finishing import Finish, Unchanged
from handfast.server.transactions.core.model import Branch, BranchDecision, Learnt, ResourceName
from handfast.server.transactions.core.reading import revision_after
from handfast.server.transactions.core.unique_keys import holder_after
from handfast.server.transactions.crash_points import reached
from handfast.server.transactions.participant.errors import CommittedChangeLost, FinishingFailed
from handfast.server.transactions.participant.resolver import Resolver
from handfast.server.transactions.participant.resource_rows import Saved
from handfast.server.transactions.participant.store import Store

LOSS_ACCEPTED = "a branch is finished without operations that were committed and lost, as an operator accepted"
NO_LONGER_KNOWN = "a commit came again of a transaction that is no longer known here, whatever was staged of it"
LEFT_FOR_LATER = "a branch is not finished yet, as others hold what it needs"
GIVEN_UP = "a branch is finished without what could not be applied, as an operator accepted"
KIND_GIVEN_UP = "a branch is finished without a kind of resource that the service no longer has"
FAILED = "a branch could not be finished, and will be tried again"

_log = structlog.get_logger()


class Finished(Enum):
    """What became of a branch. CONFIRMED: it is finished as decided. LOST: a committed operation is not here. FAILED:
    it could not be applied or dropped, and is as it was.
    """

    CONFIRMED = auto()
    LOST = auto()
    FAILED = auto()


class BranchFinisher:
    """Finishes branches: for the coordinator by `finish_all`, for a writer by `settle`, for the sweeper by
    `settle_all`. It is idempotent: what is finished is confirmed again.
    """

    def __init__(self, store: Store, requests: IdempotencyStore, resolver: Resolver, clock: Clock) -> None:
        self._store, self._requests, self._resolver, self._clock = store, requests, resolver, clock
        self.on_lost: Callable[[], None] = lambda: None
        """Called each time that something is found lost, or cannot be finished, whoever asked."""
        self.on_finished: Callable[[Mapping[str, Finish | Unchanged]], None] = lambda verdicts: None
        """Called with what the rules say of branches, by transaction id, once those that could be are finished."""

    def settle(self, transaction_id: str) -> Branch | None:
        """Finishes the branch, whose change a write has met, if that can be, and returns None; else the branch, whose
        transaction is undecided. Raises CommittedChangeLost, FinishingFailed, CoordinatorUnavailable.
        """
        decision = self._resolver.ask([transaction_id])[transaction_id]
        if decision is None:
            with self._store.database.read() as connection:
                branch = self._store.branches.find(connection, transaction_id)
            if branch is None:
                return None  # it has been finished since, and pruned
            decision = self._abort_late(branch)
            if decision is None:
                return branch
        match self._finish_one(decision):
            case Finished.LOST:
                raise CommittedChangeLost(transaction_id)
            case Finished.FAILED:
                raise FinishingFailed(transaction_id)
        return None

    def settle_all(self, branches: Sequence[Branch], go_on: Callable[[], bool]) -> Iterator[tuple[str, Finished]]:
        """Finishes those of these branches that can be, as `finish_all` does, with one question to the coordinator.
        Raises CoordinatorUnavailable.
        """
        answers = self._resolver.ask([branch.transaction_id for branch in branches])
        learnt = [answers[branch.transaction_id] or self._abort_late(branch) for branch in branches]
        return self.finish_all([decision for decision in learnt if decision is not None], go_on)

    def _abort_late(self, undecided: Branch) -> Learnt:
        """How a transaction that the coordinator says is undecided is decided, once its time is up (rule 6)."""
        return self._resolver.abort(undecided.transaction_id) if may_abort(undecided, self._clock()) else None

    def finish_all(
        self, decisions: Sequence[BranchDecision], go_on: Callable[[], bool]
    ) -> Iterator[tuple[str, Finished]]:
        """Finishes these branches, many in each local transaction, as long as `go_on` says so. Where a local
        transaction fails, its branches are finished one by one. One that fails by itself holds up no other; one that
        needs what others keep for themselves is left out. Raises what concerns them all, such as DatabaseUnavailable.
        """
        sizes: dict[str, tuple[int, int]] = {}
        if len(decisions) > 1:
            with self._store.database.read() as connection:
                sizes = self._store.operations.sizes(connection, [each.transaction_id for each in decisions])
        for batch in rules.batches(decisions, sizes):
            if not go_on():
                return
            first, *others = batch
            try:
                if others:
                    for id_, confirmed in self.finish(*batch).items():
                        yield id_, Finished.CONFIRMED if confirmed else Finished.LOST
                else:
                    yield first.transaction_id, self._finish_one(first)
            except Exception as error:
                if others:
                    for decision in batch:
                        yield from self.finish_all([decision], go_on)
                elif is_conflict(error):
                    _log.warning(LEFT_FOR_LATER, transaction_id=first.transaction_id, **cause_for_log(error))
                else:
                    raise

    def _finish_one(self, decision: BranchDecision) -> Finished:
        """Finishes this branch. Where that fails by itself and an operator has accepted the loss, it is finished
        without what it has staged. Raises what is no fault of the branch: conflicts, and what concerns all branches.
        """
        id_ = decision.transaction_id
        try:
            return Finished.CONFIRMED if self.finish(decision)[id_] else Finished.LOST
        except Exception as error:
            if is_conflict(error) or _concerns_all(error):
                raise
            _log.error(FAILED, transaction_id=id_, **cause_for_log(error))
        if decision.loss_accepted and decision.committed_count:
            result = self._finish_one(replace(decision, committed_count=0))
            _log.warning(GIVEN_UP, transaction_id=id_, committed=decision.committed_count)
            return result
        self.on_lost()
        return Finished.FAILED

    def finish(self, *decisions: BranchDecision) -> dict[str, bool]:
        """Finishes these branches in one local transaction. Returns by the transaction id whether each is finished as
        it was decided; else the change is lost, and nothing of the branch is touched.
        """
        with later_span("finish", Phase.STAGE, [decision.transaction_id for decision in decisions]):
            verdicts = self._store.database.write(lambda connection: self.finish_within(connection, decisions))
        self.on_finished(verdicts)
        for decision in decisions:
            self._report(decision, verdicts[decision.transaction_id])
        return {id_: verdict is not Unchanged.LOST for id_, verdict in verdicts.items()}

    def finish_within(
        self, connection: sa.Connection, decisions: Sequence[BranchDecision]
    ) -> dict[str, Finish | Unchanged]:
        """`finish` as a part of a local transaction, by statements for many rows. Returns what the rules say of each
        branch."""
        store = self._store
        counts = {decision.transaction_id: decision.committed_count for decision in decisions}
        # One that is not there is inserted, to hold off stages that come late, until it is said what becomes of it.
        branches = store.branches.lock_all(connection, list(counts))
        inserted = [id_ for id_, branch in branches.items() if branch is None]
        horizon = store.branches.horizon(connection) if inserted else ""
        parts = store.operations.parts_of(connection, list(counts))

        verdicts = {
            id_: rules.finish(decision, branches[id_], horizon, parts.get(id_, ()))
            for id_, decision in zip(counts, decisions, strict=True)
        }
        finished = {id_: verdict for id_, verdict in verdicts.items() if isinstance(verdict, Finish)}
        if finished:
            self._apply(connection, finished, {each.transaction_id: each for each in decisions})
        if kept_nothing := [id_ for id_ in inserted if id_ not in finished]:
            store.branches.delete(connection, kept_nothing)
        return verdicts

    def _apply(
        self, connection: sa.Connection, finished: Mapping[str, Finish], decisions: Mapping[str, BranchDecision]
    ) -> None:
        store, ids = self._store, list(finished)
        types = store.types
        saved: dict[str, list[Saved]] = defaultdict(list)  # by kind, as the others are
        dropped: dict[str, list[str]] = defaultdict(list)
        released: dict[str, list[str]] = defaultdict(list)
        erased: list[str] = []
        for id_, finish in finished.items():
            revision = revision_after(id_)
            for (kind, key), image in finish.applied.items():
                columns = None
                if kind in types:
                    message = types[kind].decoded(image)
                    columns = None if message is None else types[kind].to_columns(message)
                    if types[kind].is_erased(message):
                        erased.append(str(ResourceName(kind, key)))
                saved[kind].append(Saved(key, columns, id_, revision))
            for kind, key in finish.dropped:
                dropped[kind].append(key)
            for kind, key in finish.released:
                released[kind].append(key)
        kinds = {*saved, *dropped, *released}
        for kind in sorted(kinds & types.keys()):
            rows = store.rows[kind]
            rows.save(connection, saved[kind])
            rows.unmark(connection, dropped[kind])
            rows.end_read_locks(connection, released[kind])
        gone = kinds - types.keys()
        for kind in gone:
            self._give_up(connection, kind, {each.last_transaction_id for each in saved[kind]}, ids, decisions)
        if (gone or store.has_unique_values) and (changed := store.unique_keys.changed_by(connection, ids)):
            counts = {id_: decisions[id_].committed_count for id_ in ids}
            holders = {key.value: holder_after(key, counts[str(key.pending_transaction_id)]) for key in changed}
            store.unique_keys.save(connection, holders)
            store.unique_keys.forget_changes(connection, ids)
        self._requests.erase(connection, erased)
        store.operations.forget(connection, ids)
        store.branches.finish(connection, {id_: finish.outcome for id_, finish in finished.items()})
        for _ in finished:
            reached("participant.finishing")

    def _give_up(
        self,
        connection: sa.Connection,
        kind: str,
        committed: Collection[str],
        finished: Sequence[str],
        decisions: Mapping[str, BranchDecision],
    ) -> None:
        """Leaves out a kind that the service no longer declares. Only marks are taken off its rows, if their table is
        still there. Raises LookupError where the loss of what is `committed` of it is not accepted.
        """
        if [id_ for id_ in committed if not decisions[id_].loss_accepted]:
            raise LookupError(f"the service declares no {kind}, of which changes are committed")
        for id_ in committed:
            _log.warning(KIND_GIVEN_UP, transaction_id=id_, kind=kind)
        if sa.inspect(connection).has_table(kind):
            mark: sa.ColumnClause[str | None] = sa.column("pending_transaction_id")
            marked = sa.update(sa.table(kind, mark)).where(mark.in_(finished))
            connection.execute(marked.values(pending_transaction_id=None))

    def _report(self, decision: BranchDecision, verdict: Finish | Unchanged) -> None:
        id_, count = decision.transaction_id, decision.committed_count
        match verdict:
            case Unchanged.LOST:
                self.on_lost()
                return
            case Unchanged.PRUNED if count:
                _log.warning(NO_LONGER_KNOWN, transaction_id=id_)
            case Finish(held=held) if held < count:
                _log.warning(LOSS_ACCEPTED, transaction_id=id_, committed=count, applied=held)
        reached("participant.finished")


def owners_of(verdicts: Iterable[Finish | Unchanged]) -> list[str]:
    """Who had opened the branches that these verdicts finish."""
    return [each.owner for each in verdicts if isinstance(each, Finish) and each.owner is not None]


def _concerns_all(error: Exception) -> bool:
    """Whether other branches would fail as well."""
    kind = kind_of(error)
    if kind is None:
        return isinstance(error, DomainError) and not is_conflict(error)
    return kind in (DatabaseUnavailable, CallDeadlineExceeded)
