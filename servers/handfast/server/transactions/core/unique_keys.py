"""Who holds a value that no two resources may share, such as an email (rule 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
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
    wanted: Mapping[str, Set[str]], changing: Sequence[UniqueKey], mine: str | None = None
) -> dict[str, str | None] | Pending | Taken:
    """Rule 8: who holds each value after a write; None frees it. `wanted` has the resources that the write changes, by
    their keys, each with all the values that it has afterwards; `changing` are the values that it gives them or takes
    away from them. What one of them gives up another may take. `mine` is the transaction that writes, and sees its own
    pending changes; None for a plain write.
    """
    holders: dict[str, str | None] = {}
    for key in changing:
        if (other := blocker(key.pending_transaction_id, mine)) is not None:
            return Pending(other)
        holder = holder_after(key)
        takers = [resource for resource, values in wanted.items() if key.value in values]
        stays = holder is not None and holder not in wanted
        if len(takers) > 1 or (takers and stays):
            return Taken(key.value)
        if not stays:
            holders[key.value] = takers[0] if takers else None
        # Else it is taken away, and was never this one's: two had it already when it became unique.
    return holders


def holder_after(key: UniqueKey, committed_count: int = MAX_OPERATIONS) -> str | None:
    """Rules 4 and 8: who holds a value once the committed operations of the transaction that has a pending change of it
    are applied; by default all operations, as that transaction itself sees it.
    """
    last = max((number for number in key.changes if number <= committed_count), default=None)
    return key.holder if last is None else key.changes[last]
