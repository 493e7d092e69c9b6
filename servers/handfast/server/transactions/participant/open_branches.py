"""How many transactions are open here, so that callers who leave theirs open do not fill the database."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from handfast.server.transactions.participant.errors import TooManyTransactions

MAX_OPEN, MAX_OPEN_PER_CALLER = 10_000, 2_500
RECOUNT_S = 0.2
"""How old the counts are at the most by which a transaction is refused, or those who come again would have the database
count for each."""


class OpenBranches:
    """Counts branches by who has opened them, in memory. The sweeper sets the counts right about once a second, for
    what other replicas open and finish; and before somebody is refused, they are set right, too.
    """

    def __init__(self, most: int = MAX_OPEN, most_per_caller: int = MAX_OPEN_PER_CALLER) -> None:
        self._most, self._most_per_caller = most, most_per_caller
        self._lock = threading.Lock()
        self._by_owner: Counter[str] = Counter()
        self._total = 0  # of all owners, who can be as many as there are connections
        self._set_s = float("-inf")

    def recount(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Sets the counts to what `count` finds in the database, unless that was done just now."""
        with self._lock:
            if time.monotonic() < self._set_s + RECOUNT_S:
                return
            self._set_s = time.monotonic()
        self.set(count())

    def refusal(self, owner: str, transaction_id: str) -> TooManyTransactions | None:
        """Why this caller can open no further one; None where it can."""
        with self._lock:
            if self._by_owner[owner] >= self._most_per_caller:
                return TooManyTransactions(transaction_id, self._most_per_caller, "caller")
            if self._total >= self._most:
                return TooManyTransactions(transaction_id, self._most, "all")
        return None

    def opened(self, owner: str) -> None:
        with self._lock:
            self._by_owner[owner] += 1
            self._total += 1

    def finished(self, owners: Iterable[str]) -> None:
        with self._lock:
            for owner in owners:
                if owner not in self._by_owner:
                    continue  # opened at another replica, and not counted here yet
                self._by_owner[owner] -= 1
                self._total -= 1
                if not self._by_owner[owner]:
                    del self._by_owner[owner]  # no name is kept for nothing

    def set(self, counts: Mapping[str, int]) -> None:
        with self._lock:
            self._by_owner = +Counter(counts)
            self._total = self._by_owner.total()
            self._set_s = time.monotonic()
