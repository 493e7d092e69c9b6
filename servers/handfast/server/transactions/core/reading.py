"""What a plain read sees of a row with a pending change (the first part of rule 7).

A read takes a row and its pending change from one statement. Where there is a change of a transaction, it learns the
decision outside of any local transaction, and by that either answers or reads the row once more: a decision that was
learnt says nothing of a row that was read before it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from handfast.server.transactions.core.model import Decision, Operation, Outcome


class Look(enum.Enum):
    """What to answer where it is not an operation's image."""

    COMMITTED = enum.auto()
    READ_AGAIN = enum.auto()


class Forgotten(enum.Enum):
    """The coordinator no longer keeps the decision: either it is finished, or nothing of it was committed."""

    FORGOTTEN = enum.auto()


Learnt = Decision | Forgotten | None
"""What the coordinator says of a transaction; None where it is undecided."""


def first_look(learnt: Learnt) -> Look:
    """For a row that was read before `learnt` was known. While a transaction is undecided, and once it is aborted, the
    committed state is what everybody sees."""
    if learnt is None or (isinstance(learnt, Decision) and learnt.outcome is Outcome.ABORTED):
        return Look.COMMITTED
    return Look.READ_AGAIN


def second_look(operations: Sequence[Operation], learnt: Decision | Forgotten, participant: str) -> Look | Operation:
    """For a row that was read after `learnt` was known of the transaction whose operations it still has: the last
    operation that the decision names, if it names one."""
    if isinstance(learnt, Forgotten):
        return Look.COMMITTED
    named = [operation for operation in operations if operation.number <= learnt.named(participant)]
    return max(named, key=lambda operation: operation.number, default=Look.COMMITTED)
