"""The coordinator's rules: a decision is a write-once register (rule 3)."""

from __future__ import annotations

import enum

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
