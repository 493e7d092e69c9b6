"""Who holds a value that no two resources may share, such as an email (rule 8)."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from handfast.server.transactions.core.conflicts import blocker
from handfast.server.transactions.core.model import MAX_OPERATIONS, UniqueKey


@dataclass(frozen=True, slots=True)
class Pending:
    """Another transaction has a pending change of a value that is needed. That is a conflict to resolve, and does not
    say that the value is taken.
    """

    transaction_id: str


@dataclass(frozen=True, slots=True)
class Taken:
    """Another resource holds the value."""

    value: str


def claim(
    resource: str, wanted: Set[str], changing: Sequence[UniqueKey], mine: str | None = None
) -> dict[str, str | None] | Pending | Taken:
    """Rule 8: who holds each value after a write of `resource`; None frees it. `changing` are the values that the write
    gives the resource or takes away from it, `wanted` all that it has afterwards. `mine` is the transaction that
    writes, and sees its own pending changes; None for a plain write.
    """
    holders: dict[str, str | None] = {}
    for key in changing:
        if (other := blocker(key.pending_transaction_id, mine)) is not None:
            return Pending(other)
        holder = holder_after(key)
        if holder in (None, resource):
            holders[key.value] = resource if key.value in wanted else None
        elif key.value in wanted:
            return Taken(key.value)
        # Else it is taken away, and was never this one's: two had it already when it became unique.
    return holders


def holder_after(key: UniqueKey, committed_count: int = MAX_OPERATIONS) -> str | None:
    """Rules 4 and 8: who holds a value once the committed operations of the transaction that has a pending change of it
    are applied; by default all operations, as that transaction itself sees it.
    """
    last = max((number for number in key.changes if number <= committed_count), default=None)
    return key.holder if last is None else key.changes[last]
