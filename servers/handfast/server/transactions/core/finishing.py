"""What becomes of a branch by the decision (rules 4 and 5)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from handfast.server.transactions.core.model import Branch, BranchDecision, BranchState, Operation, Outcome

BATCH_OPERATIONS, BATCH_BYTES = 100, 1024 * 1024
"""How much is finished in one local transaction, where it is of several branches."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Make each resource what `applied` says (None deletes it), take the mark of the transaction off those in
    `dropped`, forget the operations, and store that the branch is finished, with this outcome. `held` counts the
    committed operations that are here.
    """

    outcome: Outcome
    applied: Mapping[str, bytes | None]
    dropped: frozenset[str]
    held: int


class Unchanged(enum.Enum):
    """Why nothing is to be done. FINISHED: the branch was finished before. PRUNED: it was, and is gone. LOST: a
    committed operation is neither staged nor finished here, or the opposite is finished.
    """

    FINISHED = enum.auto()
    PRUNED = enum.auto()
    LOST = enum.auto()


def finish(
    decision: BranchDecision, branch: Branch | None, horizon: str, operations: Sequence[Operation]
) -> Finish | Unchanged:
    """Rule 5: applies the committed operations of a branch and drops those beyond, whole. Where one of them is not
    here, nothing is changed; unless an operator has accepted the loss: then those that are here are applied.

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
    if len(operations) < count and not decision.loss_accepted:
        return Unchanged.LOST
    applied = final_images(operations, count)
    dropped = frozenset(operation.resource for operation in operations) - applied.keys()
    return Finish(decision.outcome or Outcome.ABORTED, applied, dropped, held=min(count, len(operations)))


def final_images(operations: Iterable[Operation], committed_count: int) -> dict[str, bytes | None]:
    """Rule 4, only what is named: what each resource becomes by the committed operations, the last of each counting."""
    ordered = sorted(operations, key=lambda operation: operation.number)
    return {operation.resource: operation.after_image for operation in ordered if operation.number <= committed_count}


def unheard_of(transaction_id: str) -> Branch:
    """Rule 5: the branch of a transaction of which nothing is known here, before it is closed or finished."""
    return Branch(transaction_id, BranchState.OPEN, deadline_us=0)


def close(transaction_id: str, branch: Branch | None, horizon: str) -> Branch:
    """Rules 1 and 10: the branch with further operations refused, for good. Below the `horizon` one that is gone was
    finished, whatever the outcome was, and nothing can be staged any more.
    """
    if branch is None:
        state = BranchState.FINISHED if transaction_id < horizon else BranchState.CLOSED
        return replace(unheard_of(transaction_id), state=state)
    return replace(branch, state=BranchState.CLOSED) if branch.state is BranchState.OPEN else branch


def batches(
    decisions: Iterable[BranchDecision], sizes: Mapping[str, tuple[int, int]]
) -> Iterator[list[BranchDecision]]:
    """Rule 5: which branches are finished together, each list in one local transaction. `sizes` has how many operations
    a branch holds, and how many bytes these take; a branch that is left out holds none. A list is short enough that
    others get their turn to write, since on SQLite one writes at a time; only a branch alone may hold more.
    """
    batch: list[BranchDecision] = []
    operations_so_far = bytes_so_far = 0
    for decision in decisions:
        operations, size = sizes.get(decision.transaction_id, (0, 0))
        operations = max(operations, 1)  # a branch without any is not for nothing, either
        if batch and (operations_so_far + operations > BATCH_OPERATIONS or bytes_so_far + size > BATCH_BYTES):
            yield batch
            batch, operations_so_far, bytes_so_far = [], 0, 0
        batch.append(decision)
        operations_so_far, bytes_so_far = operations_so_far + operations, bytes_so_far + size
    if batch:
        yield batch
