"""What transactions did, as their callers saw it. A call on its own is a transaction of one call.

No value is written to an object twice, and none is its first one, so a read tells which write it saw. A write of
something that the same transaction has read before replaces what was read.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Initial = Callable[[str], str]
"""Says which value an object had before the history began."""


class Outcome(enum.Enum):
    COMMITTED = enum.auto()
    ABORTED = enum.auto()
    UNKNOWN = enum.auto()  # either, and if committed, then maybe after the caller gave up


@dataclass(frozen=True, slots=True)
class Read:
    object: str
    value: str

    def __str__(self) -> str:
        return f"{self.object}={self.value}"


@dataclass(frozen=True, slots=True)
class Write:
    object: str
    value: str

    def __str__(self) -> str:
        return f"{self.object}:={self.value}"


@dataclass(frozen=True, slots=True, eq=False)
class Transaction:
    """Times are in seconds, of one clock for all callers. `operations` are in the order in which they were done."""

    who: str
    began: float
    ended: float
    outcome: Outcome
    operations: Sequence[Read | Write]

    @property
    def last_moment(self) -> float:
        """Until when it may have had its effect."""
        return math.inf if self.outcome is Outcome.UNKNOWN else self.ended

    def first_reads(self) -> dict[str, str]:
        """What it read of others: of each object the first value, unless it had written the object before."""
        seen, read = set[str](), dict[str, str]()
        for each in self.operations:
            if each.object not in seen and isinstance(each, Read):
                read[each.object] = each.value
            seen.add(each.object)
        return read

    def last_writes(self) -> dict[str, str]:
        """What it shows to others: of each object the last value that it wrote."""
        return {each.object: each.value for each in self.operations if isinstance(each, Write)}

    def contradictions(self) -> Iterator[Read]:
        """Those of its reads that do not show what it had read or written itself."""
        known = dict[str, str]()
        for each in self.operations:
            if isinstance(each, Read) and known.get(each.object, each.value) != each.value:
                yield each
            known[each.object] = each.value

    def __str__(self) -> str:
        times = f"{self.began:10.4f} - {self.ended:10.4f}"
        return f"{times}  {self.who:<12} {self.outcome.name:<9} {' '.join(map(str, self.operations))}"
