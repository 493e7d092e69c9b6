"""What becomes of a branch by the decision (rules 4 and 5)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from handfast.server.transactions.core.model import Branch, BranchDecision, BranchState, Outcome, Part, ResourceName

BATCH_PARTS, BATCH_BYTES = 100, 1024 * 1024
"""How much is finished in one local transaction, where it is of several branches."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Make each resource what `applied` says (None deletes it), take the mark of the transaction off those in
    `dropped`, and its read lock off those in `released`; forget the operations, and store that the branch is finished,
    with this outcome. `held` counts the committed operations that are here; `owner` has opened the branch, None where
    nobody has.
    """

    outcome: Outcome
    applied: Mapping[ResourceName, bytes | None]
    dropped: Set[ResourceName]
    released: Set[ResourceName]
    held: int
    owner: str | None = None


class Unchanged(enum.Enum):
    """Why nothing is to be done. FINISHED: the branch was finished before. PRUNED: it was, and is gone. LOST: a
    committed operation is neither staged nor finished here, or the opposite is finished.
    """

    FINISHED = enum.auto()
    PRUNED = enum.auto()
    LOST = enum.auto()


def finish(decision: BranchDecision, branch: Branch | None, horizon: str, parts: Sequence[Part]) -> Finish | Unchanged:
    """Rule 5: applies the committed operations of a branch and drops those beyond, whole. Where one of them is not
    here, nothing is changed; unless an operator has accepted the loss: then those that are here are applied. Rule 13:
    all read locks end with the branch. `parts` has all of its operations.

    Where nothing is known of the transaction, and `branch` is None, it was finished and pruned if it is below the
    `horizon` (rule 10); else its branch is stored as finished, so that a staged call that arrives late is refused.
    Where the coordinator has forgotten the transaction, it is finished here, or nothing of it was committed.
    """
    count = decision.committed_count
    if branch is None and decision.transaction_id < horizon:
        return Unchanged.PRUNED
    if branch is not None and branch.state is BranchState.FINISHED:
        if decision.outcome is None or decision.loss_accepted:
            return Unchanged.FINISHED
        as_decided = decision.outcome is branch.outcome and count <= branch.staged
        return Unchanged.FINISHED if as_decided else Unchanged.LOST
    operations = len({part.number for part in parts})
    if operations < count and not decision.loss_accepted:
        return Unchanged.LOST
    applied = final_images(parts, count)
    changed = {part.resource for part in parts if part.resource and not part.is_lock}
    released = {part.resource for part in parts if part.resource and part.is_lock}
    outcome = decision.outcome or Outcome.ABORTED
    owner = None if branch is None else branch.owner
    return Finish(outcome, applied, changed - applied.keys(), released, min(count, operations), owner)


def final_images(parts: Iterable[Part], committed_count: int) -> dict[ResourceName, bytes | None]:
    """Rule 4, only what is named: what each resource becomes by the committed operations, the last of each counting."""
    ordered = sorted(parts, key=lambda part: part.number)
    return {
        part.resource: part.after_image
        for part in ordered
        if part.number <= committed_count and part.resource and not part.is_lock
    }


def unheard_of(transaction_id: str) -> Branch:
    """Rule 5: the branch of a transaction of which nothing is known here, before it is closed or finished."""
    return Branch(transaction_id, BranchState.OPEN, deadline_us=0)


def close(transaction_id: str, branch: Branch | None, horizon: str) -> Branch:
    """Rules 1 and 10: the branch with further operations refused, for good. Below the `horizon` one that is gone was
    finished, whatever the outcome was, and nothing can be staged any more.
    """
    if branch is None:
        state = BranchState.FINISHED if transaction_id < horizon else BranchState.CLOSED
        return unheard_of(transaction_id)._replace(state=state)
    return branch._replace(state=BranchState.CLOSED) if branch.state is BranchState.OPEN else branch


def batches(
    decisions: Iterable[BranchDecision], sizes: Mapping[str, tuple[int, int]]
) -> Iterator[list[BranchDecision]]:
    """Rule 5: which branches are finished together, each list in one local transaction. `sizes` has how many parts
    the operations of a branch have, and how many bytes they take; a branch that is left out holds none. A list is short
    enough that others get their turn to write, since on SQLite one writes at a time; only a branch alone may hold more.
    """
    batch: list[BranchDecision] = []
    parts_so_far = bytes_so_far = 0
    for decision in decisions:
        parts, size = sizes.get(decision.transaction_id, (0, 0))
        parts = max(parts, 1)  # a branch without any is not for nothing, either
        if batch and (parts_so_far + parts > BATCH_PARTS or bytes_so_far + size > BATCH_BYTES):
            yield batch
            batch, parts_so_far, bytes_so_far = [], 0, 0
        batch.append(decision)
        parts_so_far, bytes_so_far = parts_so_far + parts, bytes_so_far + size
    if batch:
        yield batch
