"""Each rule of the protocol, left out: so that it shows that the simulation would notice.

A rule is left out by a patch of the one place that holds it, or by not taking the lock that it stands on. The profile
named with it is the one whose worlds soon come to a schedule that the rule guards against.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from handfast.server.transactions.coordinator import coordinator as coordinators
from handfast.server.transactions.coordinator import service
from handfast.server.transactions.coordinator import staging as stages
from handfast.server.transactions.coordinator.errors import OperationsMissing
from handfast.server.transactions.core import coordinator as coordinator_rules
from handfast.server.transactions.core import finishing as finishing_rules
from handfast.server.transactions.core import pruning, staging, unique_keys
from handfast.server.transactions.core.coordinator import Verdict
from handfast.server.transactions.core.model import (
    Branch,
    BranchDecision,
    Decision,
    Learnt,
    Outcome,
    Part,
    StageRequest,
    UniqueKey,
)
from handfast.server.transactions.core.staging import Refusal
from handfast.server.transactions.participant import collection
from handfast.server.transactions.participant.branches import Branches
from handfast.server.transactions.participant.finishing import BranchFinisher
from handfast.server.transactions.participant.resolver import CoordinatorResolver
from handfast.server.transactions.participant.resource_rows import ResourceRow
from handfast.transactions.v1 import transactions_pb2 as pb
from tests.simulation import servers, statements
from tests.simulation.engine import Columns, Connection, Result, Statement
from tests.simulation.without_locks import WITHOUT_LOCKS
from tests.simulation.without_parts import WITHOUT_PARTS
from tests.simulation.world import Without


def _patch(owner: Any, name: str, value: Any) -> tuple[tuple[Any, str, Any], ...]:
    return ((owner, name, value),)


# The decision is write-once.


class OverwritingRegister(statements.SimulatedRegister):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)

        def upsert(c: Connection, p: Columns) -> Result:
            if not c.insert("decisions", p["transaction_id"], {"loss_accepted": None, **p}):
                c.update("decisions", p["transaction_id"], p)
            return Result(rowcount=1)

        self._insert = Statement(upsert)


# Nothing pending is forgotten without a decision.


def _presumed_aborted(self: CoordinatorResolver, transaction_id: str) -> Learnt:
    return BranchDecision(transaction_id, Outcome.ABORTED, 0)


# A decision is kept until all participants have confirmed it; a horizon never passes an open branch.


def _as_far_as_wanted(wanted: str, oldest: str | None) -> str:
    return wanted


class _Wanted:
    """How far the prune at hand may go."""

    limit = ""


def _noting_what_is_wanted(wanted: str, oldest: str | None) -> str:
    _Wanted.limit = min(wanted, oldest or wanted)
    return _Wanted.limit


class ForgettingRegister(statements.SimulatedRegister):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._newest_finished = Statement(lambda c, p: statements.newest_below(c.scan("decisions"), p["horizon"]))
        self._delete_finished = Statement(lambda c, p: _delete_below(c, "decisions", p["horizon"]))


class ForgettingBranches(statements.SimulatedBranches):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._newest_finished = Statement(lambda c, p: statements.newest_below(c.scan("branches"), p["horizon"]))
        self._delete_finished = Statement(lambda c, p: _delete_below(c, "branches", p["horizon"]))


def _delete_below(c: Connection, table: str, horizon: str) -> Result:
    found = [row["transaction_id"] for row in c.scan(table) if row["transaction_id"] < horizon]
    return Result(rowcount=sum(c.delete(table, each) for each in found))


# A finished branch leaves a marker; horizons refuse what comes later still; numbers follow each other.

_finish, _check_stage = finishing_rules.finish, staging.check_stage


def _finish_without_a_marker(self: Branches, connection: Any, outcomes: Mapping[str, Outcome]) -> None:
    self.delete(connection, list(outcomes))


def _finish_whatever_is_there(decision: BranchDecision, branch: Any, horizon: str, parts: Sequence[Part]) -> Any:
    count = min(decision.committed_count, len({part.number for part in parts}))
    return _finish(replace(decision, committed_count=count), branch, horizon, parts)


def _stage_below_the_horizon(branch: Any, horizon: str, known: Any, stage: StageRequest, now_us: int) -> Any:
    return _check_stage(branch, "", known, stage, now_us)


def _stage_any_number(branch: Any, horizon: str, known: Any, stage: StageRequest, now_us: int) -> Any:
    checked = _check_stage(branch, horizon, known, stage, now_us)
    return None if checked is Refusal.OPERATION_OUT_OF_ORDER else checked


# A branch is finished as a whole.


class KeepsBranches:
    """Branches that are left to the coordinator, though their operations are applied and forgotten."""

    def __init__(self, branches: Branches) -> None:
        self._branches = branches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._branches, name)

    def finish(self, connection: Any, outcomes: Mapping[str, Outcome]) -> None:
        for id_, outcome in outcomes.items():
            if outcome is Outcome.COMMITTED:
                connection.update("branches", id_, {"staged": 0})
            else:
                self._branches.finish(connection, {id_: outcome})


def _settle_the_rows_alone(self: BranchFinisher, transaction_id: str) -> Branch | None:
    """As a writer would that finishes only what stands in its way; the coordinator does the rest."""
    alone = copy(self)
    alone._store = copy(self._store)
    branches: Any = KeepsBranches(self._store.branches)
    alone._store.branches = branches
    return _settle(alone, transaction_id)


_settle = BranchFinisher.settle


# Only what is named is applied.


def _finish_all(decision: BranchDecision, branch: Any, horizon: str, parts: Sequence[Part]) -> Any:
    count = len({part.number for part in parts}) if decision.committed_count and parts else decision.committed_count
    return _finish(replace(decision, committed_count=count), branch, horizon, parts)


# A repeated commit names the same operations.


def _judge_by_outcome(asked: Decision, standing: Decision) -> Verdict:
    return _judge(replace(asked, branches=standing.branches), standing)


_judge = coordinator_rules.judge

# A row and its pending change come from one statement; what was learnt makes a reader read again.


class TwoStatementsRows(statements.SimulatedRows[Any]):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        find, batch = self._find, self._batch
        self._find = Statement(lambda c, p: self._in_two(c, find.does(c, p)))
        self._batch = Statement(lambda c, p: self._in_two(c, batch.does(c, p)))

    def _in_two(self, c: Connection, result: Result) -> Result:
        """The operations are read afterwards."""
        first = {row[self._key_name]: row._columns for row in result}
        c._engine.world.pause("between row and pending change")
        joined: list[Columns] = []
        for columns in first.values():
            found = statements.changes_of(c, self._resources.kind, columns, self._key_name)
            joined.extend(statements.with_changes(columns, found))
        return Result(joined)


_visible = collection.Collection._visible


class ReadBefore:
    """Rows that are not read again."""

    def __init__(self, rows: Collection[ResourceRow[Any]]) -> None:
        self._rows = {row.name.key: row for row in rows}

    def batch(self, connection: Any, keys: Collection[str]) -> list[ResourceRow[Any]]:
        return [self._rows[key] for key in keys]


def _visible_at_once(self: Any, rows: Iterable[ResourceRow[Any]], mine: str | None = None) -> Any:
    """Folds what is learnt into what was read before."""
    kept, at_once = list(rows), copy(self)
    at_once._rows = ReadBefore(kept)
    return _visible(at_once, kept, mine)


# Writes and look-ups go by who holds a unique value, and by what is pending of that, which is a conflict to resolve.

_claim = unique_keys.claim


def _claim_by_the_holder_alone(wanted: Any, changing: Sequence[UniqueKey], mine: str | None) -> Any:
    """Without a look at the pending changes of others."""
    return _claim(wanted, [replace(key, pending_transaction_id=mine) for key in changing], mine)


def _claim_or_refuse(wanted: Any, changing: Sequence[UniqueKey], mine: str | None) -> Any:
    claimed = _claim(wanted, changing, mine)
    return unique_keys.Taken(changing[0].value) if isinstance(claimed, unique_keys.Pending) else claimed


def _look_up_the_holder_alone(self: Any, value: str) -> str | None:
    with self._store.database.read() as connection:
        holder: str | None = self._store.unique_keys.find(connection, value).holder
        return holder


def _join_the_question_under_way(self: CoordinatorResolver) -> None:
    asked = {id_ for asker in self._asking for id_ in asker.transaction_ids}
    joining = [asker for asker in self._next if asker.transaction_ids <= asked]
    self._next = [asker for asker in self._next if asker not in joining]
    self._asking = [*self._asking, *joining]
    _ask_next(self)


_ask_next = CoordinatorResolver._ask_next


# A commit is refused for what is missing only if nothing was decided meanwhile.


def _check_held_once(self: service.TransactionServicer, commit: Decision) -> None:
    if self._find([commit.transaction_id])[0].state == pb.TRANSACTION_STATE_UNDECIDED:
        held = self._holdings.of(commit).counts
        missing = {name: count for name, count in held.items() if count is not None and count < commit.branches[name]}
        if missing:
            raise OperationsMissing(commit.transaction_id, commit.branches, missing)


# A staged call follows what is committed, and nothing else.


class _LastStaged:
    decision: Decision | None = None


def _stage_after_what_was_staged_last(transaction_id: str, *arguments: Any) -> list[Any]:
    deadline_us, calls, faults, first_attempt, clock, _follows = arguments
    follows = _LastStaged.decision
    _LastStaged.decision = Decision(transaction_id, Outcome.COMMITTED, {each.participant: 1 for each in calls})
    return _stage(transaction_id, deadline_us, calls, faults, first_attempt, clock, follows)


_stage = stages.stage


WITHOUT: dict[str, Without] = {
    "write-once decision": Without("rivals", patches=_patch(servers, "SimulatedRegister", OverwritingRegister)),
    "nothing forgotten without a decision": Without(
        "rivals", patches=_patch(CoordinatorResolver, "abort", _presumed_aborted)
    ),
    "keep until confirmed": Without(
        "late",
        patches=(
            (pruning, "limit", _as_far_as_wanted),
            (servers, "SimulatedRegister", ForgettingRegister),
        ),
    ),
    "branch lock": Without("crowd", locks=frozenset({"branches"})),
    "FINISHED marker": Without(
        "crowd",
        patches=(
            (Branches, "finish", _finish_without_a_marker),
            (finishing_rules, "finish", _finish_whatever_is_there),
        ),
    ),
    "whole-branch finish": Without(
        "crowd",
        patches=(
            (BranchFinisher, "settle", _settle_the_rows_alone),
            (finishing_rules, "finish", _finish_whatever_is_there),
        ),
    ),
    "horizon for stages": Without("late", patches=_patch(staging, "check_stage", _stage_below_the_horizon)),
    "horizon at the coordinator": Without("late", patches=_patch(coordinator_rules, "may_insert", lambda *_: True)),
    "only what is named": Without("careless", patches=_patch(finishing_rules, "finish", _finish_all)),
    "next number only": Without("careless", patches=_patch(staging, "check_stage", _stage_any_number)),
    "same operations on a repeated commit": Without(
        "careless", patches=_patch(coordinator_rules, "judge", _judge_by_outcome)
    ),
    "compare-and-set on the row": Without("crowd", locks=frozenset({"users", "preferences"})),
    "one statement for row and pending": Without(
        "readers", patches=_patch(statements, "SimulatedRows", TwoStatementsRows)
    ),
    "read again": Without("readers", patches=_patch(collection.Collection, "_visible", _visible_at_once)),
    "no answer to a question that was asked before": Without(
        "readers", patches=_patch(CoordinatorResolver, "_ask_next", _join_the_question_under_way)
    ),
    "horizon never past an open branch": Without(
        "readers",
        patches=(
            (pruning, "limit", _as_far_as_wanted),
            (statements, "SimulatedBranches", ForgettingBranches),
        ),
    ),
    "horizon no further than what is forgotten": Without(
        "late",
        patches=(
            (pruning, "limit", _noting_what_is_wanted),
            (pruning, "next_horizon", lambda horizon, after_forgotten: max(horizon, _Wanted.limit)),
        ),
    ),
    "no refusal of what was decided meanwhile": Without(
        "late", patches=_patch(service.TransactionServicer, "_check_held", _check_held_once)
    ),
    "a call follows only what is committed": Without(
        "crowd", patches=_patch(coordinators, "stage", _stage_after_what_was_staged_last)
    ),
    "a pending claim is a conflict": Without("swaps", patches=_patch(unique_keys, "claim", _claim_by_the_holder_alone)),
    "a pending claim takes no value yet": Without("swaps", patches=_patch(unique_keys, "claim", _claim_or_refuse)),
    "look-ups mind pending claims": Without(
        "swaps", patches=_patch(collection.Collection, "_holder_key", _look_up_the_holder_alone)
    ),
    **WITHOUT_LOCKS,
    **WITHOUT_PARTS,
}
