"""What another transaction's pending change or read lock is to a write and to a read (rules 2, 6, 7, 9 and 13)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeGuard

from handfast.server.transactions.core.model import Branch, BranchDecision, Learnt, Outcome


def blocker(pending_transaction_id: str | None, mine: str | None = None) -> str | None:
    """Rule 2, one at a time: the transaction that keeps a write from a row or a unique value, None where nothing does.
    `pending_transaction_id` has a pending change of it; `mine` is the transaction that writes, None for a plain write.
    """
    return None if pending_transaction_id == mine else pending_transaction_id


def lock_blocker(holders: Iterable[str], mine: str | None = None) -> str | None:
    """Rule 13, hold what was read: the transaction that keeps a write from a row, None where nothing does. `holders`
    have a read lock of it; one transaction's own does not keep it from writing, if no other has one. A read lock goes
    with those of others, so for a read lock only `blocker` counts.
    """
    return min((holder for holder in holders if holder != mine), default=None)


def may_abort(undecided: Branch, now_us: int) -> bool:
    """Rule 6, nothing pending is dropped without a decision: whether the coordinator may be asked to abort the
    transaction of a branch, which it has said is undecided. That time is up leads to this attempt, and to nothing else;
    what follows goes by the decision that then stands.
    """
    return undecided.deadline_us < now_us


def may_wait(undecided: Branch, first_attempt: str) -> bool:
    """Rule 7, for writes: wait-die (Rosenkrantz, Stearns and Lewis, 1978). Only an older transaction waits for one that
    is undecided, so that none wait for each other in a circle; any other gives way. `first_attempt` says how old the
    transaction is that writes; a plain write has none, and counts as the youngest.
    """
    return bool(first_attempt) and first_attempt < undecided.first_attempt


def must_read_again(learnt: Learnt) -> TypeGuard[BranchDecision]:
    """Rules 7 and 9, for plain reads of a row, or of a unique value, that was read before `learnt` was known. While a
    transaction is undecided, and once it is aborted, the committed state is what everybody sees. Else it is read once
    more, as a decision says nothing of what was read before it was learnt; what then still has the change becomes what
    the committed operations make of it (`finishing.final_images`, `unique_keys.holder_after`).
    """
    return learnt is not None and learnt.outcome is not Outcome.ABORTED
