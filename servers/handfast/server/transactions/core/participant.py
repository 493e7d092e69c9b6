"""A participant's rules: what may be staged, and how a branch is finished or closed.

Each function takes what a local transaction read under its locks, and returns what it must write before it
commits. Rules 1, 2, 4, 5 and 8 of the protocol.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from handfast.server.transactions.core.model import (
    MAX_OPERATIONS,
    Branch,
    BranchState,
    ClaimChange,
    Operation,
    Outcome,
    StageRequest,
)


@dataclass(frozen=True, slots=True)
class Proceed:
    """The operation is the next of an open branch: validate it and store it, together with this branch."""

    branch: Branch


@dataclass(frozen=True, slots=True)
class Repeat:
    """The operation is staged already: answer as before."""

    operation: Operation


class Refusal(enum.Enum):
    FORGOTTEN = enum.auto()
    BRANCH_NOT_OPEN = enum.auto()
    OPERATION_CHANGED = enum.auto()
    OPERATION_OUT_OF_ORDER = enum.auto()
    EXPIRED = enum.auto()
    TOO_LARGE = enum.auto()


MAX_BYTES = 16 * 1024 * 1024
"""What one branch may hold, beside MAX_OPERATIONS: it is finished in one local transaction, and on SQLite nobody else
writes meanwhile.
"""


def fresh(stage: StageRequest) -> Branch:
    """The branch that the first staged call of a transaction opens."""
    return Branch(stage.transaction_id, BranchState.OPEN, stage.deadline, stage.first_attempt)


def may_wait(mine: str, theirs: str) -> bool:
    """Whether a transaction may wait for another, by the ids of their first attempts: only the older for the younger,
    so that none wait for each other in a circle.
    """
    return mine < theirs


def admit(
    branch: Branch | None, horizon: str, known: Operation | None, stage: StageRequest, now: int
) -> Proceed | Repeat | Refusal:
    """Whether a staged call may be stored.

    `branch` is None where nothing is known of the transaction here; then, below the `horizon`, its branch may have been
    finished and pruned. `known` is the operation of that number, where it is staged already. `now` is in microseconds
    since the epoch, and only ever refuses: nothing rests on its being right.
    """
    if branch is None:
        if stage.transaction_id < horizon:
            return Refusal.FORGOTTEN
        branch = fresh(stage)
    if branch.state is not BranchState.OPEN:
        return Refusal.BRANCH_NOT_OPEN
    if known is not None:
        return Repeat(known) if known.fingerprint == stage.fingerprint else Refusal.OPERATION_CHANGED
    if stage.number != branch.staged + 1:
        return Refusal.OPERATION_OUT_OF_ORDER
    if now > branch.deadline:
        return Refusal.EXPIRED
    if stage.number > MAX_OPERATIONS:
        return Refusal.TOO_LARGE
    return Proceed(replace(branch, staged=stage.number))


def has_room(bytes_so_far: int) -> bool:
    """Whether a branch may hold so many bytes: those of the images and replies of its operations."""
    return bytes_so_far <= MAX_BYTES


@dataclass(frozen=True, slots=True)
class Finished:
    """A branch is finished: make each resource what `applied` says (None deletes it), take the mark of the
    transaction off those in `dropped`, forget the operations, and store the branch.
    """

    branch: Branch
    applied: Mapping[str, bytes | None]
    dropped: frozenset[str]


class Confirmed(enum.Enum):
    """The branch was finished before."""

    CONFIRMED = enum.auto()


class Lost(enum.Enum):
    """A committed operation is neither staged nor finished here, so the branch cannot be finished."""

    LOST = enum.auto()


def finish(
    transaction_id: str,
    branch: Branch | None,
    horizon: str,
    operations: Sequence[Operation],
    outcome: Outcome | None,
    named: int,
    loss_accepted: bool = False,
) -> Finished | Confirmed | Lost:
    """Applies the operations up to the number `named` and drops those beyond, whole. Where one of them is not here,
    nothing is changed; unless an operator has accepted the loss: then those that are here are applied.

    Where nothing is known of the transaction, it was finished and pruned if it is below the `horizon`; else its branch
    is stored as finished, so that a staged call that arrives late is refused. `outcome` is None where the coordinator
    has forgotten the transaction: then it is finished here, or nothing of it was committed.
    """
    if branch is None:
        if transaction_id < horizon:
            return Confirmed.CONFIRMED
        branch = Branch(transaction_id, BranchState.OPEN, deadline=0)
    if branch.state is BranchState.FINISHED:
        if outcome is None or loss_accepted:
            return Confirmed.CONFIRMED
        return Confirmed.CONFIRMED if outcome is branch.outcome and named <= branch.staged else Lost.LOST
    outcome = outcome or Outcome.ABORTED
    if len(operations) < named and not loss_accepted:
        return Lost.LOST
    applied = final_images(operations, named)
    dropped = frozenset(operation.resource for operation in operations) - applied.keys()
    return Finished(replace(branch, state=BranchState.FINISHED, outcome=outcome), applied, dropped)


def final_images(operations: Iterable[Operation], named: int) -> dict[str, bytes | None]:
    """What each resource becomes by the first `named` operations."""
    ordered = sorted(operations, key=lambda operation: operation.number)
    return {operation.resource: operation.image for operation in ordered if operation.number <= named}


def close(transaction_id: str, branch: Branch | None, horizon: str) -> Branch:
    """The branch with further operations refused, for good."""
    if branch is None:
        # Below the horizon it was finished, whatever the outcome was; and nothing can be staged any more.
        state = BranchState.FINISHED if transaction_id < horizon else BranchState.CLOSED
        return Branch(transaction_id, state, deadline=0)
    return replace(branch, state=BranchState.CLOSED) if branch.state is BranchState.OPEN else branch


def holders_after(changes: Iterable[ClaimChange], named: int) -> dict[str, str | None]:
    """Which resource holds each unique value once the first `named` operations are applied; None frees it. Values that
    they do not touch are left out.
    """
    ordered = sorted(changes, key=lambda change: change.number)
    return {change.value: change.holder for change in ordered if change.number <= named}
