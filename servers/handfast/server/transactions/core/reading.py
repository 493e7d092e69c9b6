"""What a transaction has read, and whether it still holds (rule 13)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from handfast.server.transactions.core.model import Read, ResourceName

REVISION_LENGTH = 16
"""Characters."""


def revision_after(transaction_id: str) -> str:
    """Rule 13: the revision of what a transaction across services has changed. It is made of the transaction's id, so
    that a reader who sees the change before it is finished tells the same revision as one who sees it afterwards.
    """
    return hashlib.blake2b(transaction_id.encode(), digest_size=REVISION_LENGTH // 2).hexdigest()


def merged(reads: Iterable[Read]) -> dict[ResourceName, Read] | ResourceName:
    """Rule 13: each resource once, held if any of these reads says so; or the first that was read with two revisions,
    of which only one can hold at the decision.
    """
    known: dict[ResourceName, Read] = {}
    for read in reads:
        before = known.get(read.resource, read)
        if before.revision != read.revision:
            return read.resource
        known[read.resource] = before if before.held else read
    return known


def has_changed(read: Read, revision: str) -> bool:
    """Rule 13: whether a resource that now has this revision has changed since it was read."""
    return read.revision != revision
