"""The coordinator's rules: a decision is a write-once register (rule 3)."""

from __future__ import annotations

import enum
from collections.abc import Set

from handfast.server.transactions.core.model import Decision, Outcome


class Verdict(enum.Enum):
    """How a decision that was asked for compares with the one that stands."""

    AS_ASKED = enum.auto()
    COMMITTED_BEFORE = enum.auto()
    ABORTED_BEFORE = enum.auto()
    COMMITTED_OTHERWISE = enum.auto()


def may_insert(transaction_id: str, horizon: str) -> bool:
    """Rule 10: below the horizon a decision may have been pruned, so none is inserted: it could contradict the one that
    was.
    """
    return transaction_id >= horizon


def waits_for(decision: Decision, configured: Set[str]) -> Set[str]:
    """Rule 10: the participants that have to confirm a decision before it may be forgotten. A commit waits for all that
    it names, but for one that is not `configured` and whose loss was accepted. A rollback waits for none that is not
    configured: a participant that learns of no decision, or of a forgotten one, applies nothing.
    """
    if decision.outcome is Outcome.ABORTED:
        return decision.branches.keys() & configured
    return decision.branches.keys() - (decision.loss_accepted - configured)


def judge(asked: Decision, standing: Decision) -> Verdict:
    """Rule 3: `standing` is the decision in the register after `asked` was inserted where none was. A repeated commit
    is answered as the first only if it names the same operations: else the caller would believe that others were
    applied.
    """
    if standing.outcome is Outcome.ABORTED:
        return Verdict.AS_ASKED if asked.outcome is Outcome.ABORTED else Verdict.ABORTED_BEFORE
    if asked.outcome is Outcome.ABORTED:
        return Verdict.COMMITTED_BEFORE
    return Verdict.AS_ASKED if dict(asked.branches) == dict(standing.branches) else Verdict.COMMITTED_OTHERWISE
