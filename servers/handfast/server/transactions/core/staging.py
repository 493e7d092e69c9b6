"""Whether a staged call may be stored (rule 1)."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from handfast.server.transactions.core import model
from handfast.server.transactions.core.model import Branch, BranchState, Operation, StageRequest


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


def opened_by(stage: StageRequest, staged: int = 0) -> Branch:
    """Rule 1: the branch that the first staged call of a transaction opens; `staged` is 1 once that call is stored."""
    return Branch(stage.transaction_id, BranchState.OPEN, stage.deadline_us, stage.first_attempt, staged)


def check_stage(
    branch: Branch | None, horizon: str, known: Operation | None, stage: StageRequest, now_us: int
) -> Proceed | Repeat | Refusal:
    """Rule 1, and rule 10 for a branch that is gone: whether a staged call may be stored.

    `branch` is None where nothing is known of the transaction here; then, below the `horizon`, its branch may have been
    finished and pruned. `known` is the operation of that number, where it is staged already. `now_us` only ever
    refuses: nothing rests on its being right.
    """
    if branch is None:
        if stage.transaction_id < horizon:
            return Refusal.FORGOTTEN
        branch = opened_by(stage)
    if branch.state is not BranchState.OPEN:
        return Refusal.BRANCH_NOT_OPEN
    if known is not None:
        return Repeat(known) if known.fingerprint == stage.fingerprint else Refusal.OPERATION_CHANGED
    if stage.number != branch.staged + 1:
        return Refusal.OPERATION_OUT_OF_ORDER
    if now_us > branch.deadline_us:
        return Refusal.EXPIRED
    if stage.number > model.MAX_OPERATIONS:
        return Refusal.TOO_LARGE
    return Proceed(replace(branch, staged=stage.number))


def has_room(bytes_so_far: int) -> bool:
    """Rule 5, which bounds what a branch holds: whether it may hold so many bytes, those of the after-images and
    replies of its operations.
    """
    return bytes_so_far <= model.MAX_BYTES
