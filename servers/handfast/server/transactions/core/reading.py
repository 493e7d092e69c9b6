"""What a plain read sees of a row with a pending change (the first part of rule 7; rule 9 for each row of a list).

A read takes a row and its pending change from one statement. Where there is a change of a transaction, it learns the
decision outside of any local transaction, and by that either answers or reads the row once more: a decision that was
learnt says nothing of a row that was read before it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from handfast.server.transactions.core.model import Decision, Forgotten, Learnt, Operation, Outcome, UniqueKey
from handfast.server.transactions.core.unique_keys import holders_after


class Look(enum.Enum):
    """What to answer where it is not an operation's after-image."""

    COMMITTED = enum.auto()
    READ_AGAIN = enum.auto()


def first_look(learnt: Learnt) -> Look:
    """Rules 7 and 9, for a row that was read before `learnt` was known. While a transaction is undecided, and once it
    is aborted, the committed state is what everybody sees.
    """
    if learnt is None or (isinstance(learnt, Decision) and learnt.outcome is Outcome.ABORTED):
        return Look.COMMITTED
    return Look.READ_AGAIN


def second_look(operations: Sequence[Operation], learnt: Decision | Forgotten, participant: str) -> Look | Operation:
    """Rules 7 and 9, for a row that was read after `learnt` was known of the transaction whose operations it still has:
    the last operation that the decision commits, if it commits one.
    """
    count = 0 if isinstance(learnt, Forgotten) else learnt.committed_count(participant)
    committed = [operation for operation in operations if operation.number <= count]
    return max(committed, key=lambda operation: operation.number, default=Look.COMMITTED)


def holder_at_second_look(key: UniqueKey, learnt: Decision | Forgotten, participant: str) -> str | None:
    """Rules 7 and 8: who holds a unique value that was read after `learnt` was known of the transaction that still has
    a pending change of it.
    """
    count = 0 if isinstance(learnt, Forgotten) else learnt.committed_count(participant)
    return holders_after(key.changes, count).get(key.value, key.holder)
