"""Whether a staged call may be stored (rule 1)."""

from __future__ import annotations

import enum

from handfast.server.transactions.core import model
from handfast.server.transactions.core.model import Branch, BranchState, Operation, StageRequest


class Refusal(enum.Enum):
    """Why a staged call is refused."""

    FORGOTTEN = enum.auto()
    BRANCH_NOT_OPEN = enum.auto()
    OPERATION_CHANGED = enum.auto()
    OPERATION_OUT_OF_ORDER = enum.auto()
    EXPIRED = enum.auto()
    TOO_LARGE = enum.auto()


def opened_by(stage: StageRequest, staged: int = 0) -> Branch:
    """Rule 1: the branch that the first staged call of a transaction opens; `staged` is 1 once that call is stored."""
    return Branch(
        stage.transaction_id, BranchState.OPEN, stage.deadline_us, stage.first_attempt, staged, owner=stage.owner
    )


def is_anothers(branch: Branch | None, caller: str) -> bool:
    """Rule 14: whether a caller may neither stage nor read in a transaction, since another one has opened its branch.
    What was closed or finished before anybody had staged has no owner.
    """
    return branch is not None and branch.owner not in ("", caller)


def check_stage(
    branch: Branch | None, horizon: str, known: Operation | None, stage: StageRequest, now_us: int
) -> Refusal | Operation | None:
    """Rule 1, and rule 10 for a branch that is gone: whether a staged call may be stored. None where it may: it is the
    next operation of an open branch, to be validated and stored. Where it is staged already, that operation, to be
    answered as before.

    `branch` is None where nothing is known of the transaction here; then, below the `horizon`, its branch may have been
    finished and pruned. `known` is the operation of that number, where it is staged already. `now_us` only ever
    refuses: nothing rests on its being right.
    """
    if branch is None and stage.transaction_id < horizon:
        return Refusal.FORGOTTEN
    if branch is not None and branch.state is not BranchState.OPEN:
        return Refusal.BRANCH_NOT_OPEN
    if known is not None:
        return known if known.fingerprint == stage.fingerprint else Refusal.OPERATION_CHANGED
    if stage.number != (0 if branch is None else branch.staged) + 1:
        return Refusal.OPERATION_OUT_OF_ORDER
    if now_us > (branch or stage).deadline_us:
        return Refusal.EXPIRED
    if stage.number > model.MAX_OPERATIONS:
        return Refusal.TOO_LARGE
    return None


def has_room(parts_so_far: int, bytes_so_far: int) -> bool:
    """Rule 5, which bounds what a branch holds: whether its operations may have so many parts, and their after-images,
    replies and reads so many bytes.
    """
    return parts_so_far <= model.MAX_PARTS and bytes_so_far <= model.MAX_BYTES
