"""What stands in the way of a write, and what is done about it (rules 2, 6 and 7)."""

from __future__ import annotations

import enum

from handfast.server.transactions.core.model import Branch, Learnt


def blocker(pending_transaction_id: str | None, mine: str | None = None) -> str | None:
    """Rule 2, one at a time: the transaction that keeps a write from a row or a unique value, None where nothing does.
    `pending_transaction_id` has a pending change of it; `mine` is the transaction that writes, None for a plain write.
    """
    return None if pending_transaction_id == mine else pending_transaction_id


class Resolution(enum.Enum):
    """What to do about a branch that somebody has met."""

    FINISH = enum.auto()
    TRY_TO_ABORT = enum.auto()
    LEAVE = enum.auto()


def resolve(branch: Branch, learnt: Learnt, now_us: int) -> Resolution:
    """Rule 6, nothing pending is dropped without a decision: what is decided is finished. That time is up leads to an
    attempt to abort, and nothing else; what follows goes by the decision that then stands.
    """
    if learnt is not None:
        return Resolution.FINISH
    return Resolution.TRY_TO_ABORT if branch.deadline_us < now_us else Resolution.LEAVE


class Turn(enum.Enum):
    """What a write does that has met another transaction's change."""

    TRY_AGAIN = enum.auto()
    WAIT = enum.auto()
    GIVE_WAY = enum.auto()


def turn(undecided: Branch | None, first_attempt: str) -> Turn:
    """Rule 7, for writes: wait-die (Rosenkrantz, Stearns and Lewis, 1978). What was decided is finished by now, and
    `undecided` is None: try again. For what is undecided only an older transaction waits, so that none wait for each
    other in a circle. `first_attempt` says how old the transaction is that writes; a plain write has none, and counts
    as the youngest.
    """
    if undecided is None:
        return Turn.TRY_AGAIN
    return Turn.WAIT if first_attempt and first_attempt < undecided.first_attempt else Turn.GIVE_WAY
