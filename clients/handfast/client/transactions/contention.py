"""What the attempts of a transaction were aborted for, so that the next one locks it before it reads it.

Others make way for the age of a transaction where it has locked something, not where it has only read it. So one that
reads, thinks and writes loses to any number of quick writers, until it locks first.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from handfast.client.errors import ServiceError
from handfast.client.transactions.state import MAX_READS

if TYPE_CHECKING:
    from handfast.transactions.v1.transactions_pb2 import LockResourcesRequest

_REASONS = frozenset({"PENDING_CHANGE", "READ_CHANGED"})
_RESOURCE = re.compile(r"[^ /]+/.+")
_LOCKING = frozenset({"LockReads", "LockResources"})


class Contention:
    def __init__(self) -> None:
        self._is_changed: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        """By participant and resource, whether nobody else may lock it, too."""

    def note(self, participant: str, method: str, error: BaseException) -> None:
        """A staged call of this method failed so."""
        if not isinstance(error, ServiceError) or error.reason not in _REASONS:
            return
        resource, known = error.metadata.get("resource", ""), self._is_changed[participant]
        if not _RESOURCE.fullmatch(resource) or len(known) >= MAX_READS:  # such as "A unique value of users/ada"
            return
        # A write may only look at it, and then others may, too. Where a write is refused though the resource was locked
        # first for reading, it is to be changed, and somebody else reads it.
        known[resource] = resource in known and (known[resource] or method not in _LOCKING)

    def requests(self) -> dict[str, LockResourcesRequest]:
        """What is to be locked at each participant."""
        from handfast.transactions.v1.transactions_pb2 import LockResourcesRequest

        return {
            participant: LockResourcesRequest(
                to_read=[resource for resource, is_changed in known.items() if not is_changed],
                to_change=[resource for resource, is_changed in known.items() if is_changed],
            )
            for participant, known in self._is_changed.items()
            if known
        }
