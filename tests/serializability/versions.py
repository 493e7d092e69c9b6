"""In which order the versions of an object followed each other, as far as that is certain.

A transaction that reads an object and then writes it puts its version right after the one that it read. So versions
form chains, one of which begins with the initial version; the others begin with a blind write. A chain is never
interrupted. Which of two chains comes first is told by time, if anything: a chain spans a *zone*, from the first end
among the transactions that wrote or read its versions, to the last begin among them. Where the first end of one is
before the last begin of another, it comes first (Gibbons and Korach, "Testing shared memories", 1997, where each chain
is a single write). Where that holds both ways, no order is right, and whichever is chosen leads to a contradiction.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Version = tuple[str, str]
"""An object with a value."""


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Its first and its last version, and its zone."""

    first: Version
    last: Version
    first_end: float
    last_begin: float

    def precedes(self, other: Chain) -> bool:
        """Some transaction of this chain had ended before one of the other began."""
        return self.first_end < other.last_begin


def in_order(chains: Sequence[Chain]) -> Iterator[tuple[Chain, Chain]]:
    """Pairs of chains of which the first comes first; all others that are certain follow from these."""
    yield from _contradictory(chains)
    chains = sorted(chains, key=lambda chain: chain.last_begin)
    begins = [chain.last_begin for chain in chains]
    for chain in chains:
        next_end = float("inf")
        for later in itertools.islice(chains, bisect.bisect_right(begins, chain.first_end), None):
            if later.last_begin > next_end:
                break  # follows from another pair
            if later is not chain and not later.precedes(chain):
                next_end = min(next_end, later.first_end)
                yield chain, later


def _contradictory(chains: Iterable[Chain]) -> Iterator[tuple[Chain, Chain]]:
    """Of the pairs that precede each other some, if there are any, in the order of their ends."""
    forward, backward = list[Chain](), list[Chain]()
    for chain in sorted(chains, key=lambda chain: chain.first_end):
        (forward if chain.first_end < chain.last_begin else backward).append(chain)
    yield from ((one, other) for one, other in itertools.pairwise(forward) if other.first_end < one.last_begin)
    ends = [chain.first_end for chain in forward]
    for chain in backward:
        index = bisect.bisect_left(ends, chain.last_begin) - 1
        if index >= 0 and chain.first_end < forward[index].last_begin:
            yield forward[index], chain
