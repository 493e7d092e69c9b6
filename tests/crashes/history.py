"""What clients saw, and whether a suite that keeps its promises could have shown them that.

A history is a list of events. An event is one operation of one client: from when to when it ran, how it ended, and
which registers it wrote or read. A register is one thing with a value, such as `joint/ada`; no value is written to it
twice, so a read tells which write it saw.

Each register has to be linearizable: there must be an order of its operations, in keeping with the times, in which
every read sees the last write before it. With unique values that can be decided without search (Gibbons and Korach,
"Testing shared memories", 1997; in the words of Golab, Li and Shah, "Analyzing consistency properties for fun and
profit", 2011): a write and the reads that saw it form a cluster, and span a *zone*, from the first end among them to
the last start. Where the end comes first, the value was certainly there for the whole zone; where the start comes
first, for some moment in it.

That a value which was acknowledged is lost, or comes back, shows as a read of an older one; so no other check is needed
for it, provided that all registers are read once more at the end.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

OUT_OF_ORDER = "what was acknowledged is lost, or an older value came back"


class Ending(enum.Enum):
    DONE = enum.auto()
    REFUSED = enum.auto()  # certainly without effect
    UNKNOWN = enum.auto()  # may have had its effect, or may still have it


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Times are in seconds, of one clock for all clients. `writes` and `reads` are values by register; `etags` has the
    contents that this event saw, by resource and etag; `replaces` are the etags that a write asked for and replaced;
    `faults` is what the client itself found wrong with a reply.
    """

    client: str
    operation: str
    invoked: float
    returned: float
    ending: Ending
    writes: Mapping[str, str] = field(default_factory=dict)
    reads: Mapping[str, str] = field(default_factory=dict)
    etags: Mapping[str, str] = field(default_factory=dict)
    replaces: Sequence[str] = ()
    faults: Sequence[str] = ()
    note: str = ""

    def __str__(self) -> str:
        values = [f"{name}:={value}" for name, value in self.writes.items()]
        values += [f"{name}={value}" for name, value in self.reads.items()]
        times = f"{self.invoked:10.4f} - {self.returned:10.4f}"
        return f"{times}  {self.client:<6} {self.operation:<18} {self.ending.name:<7} {' '.join(values)} {self.note}"


@dataclass(frozen=True, slots=True)
class Violation:
    what: str
    events: tuple[Event, ...]

    def __str__(self) -> str:
        return "\n    ".join((self.what, *map(str, self.events)))


def check(history: Sequence[Event], initial: Callable[[str], str]) -> list[Violation]:
    """All that is wrong with a history. `initial` says the value of a register before it began."""
    violations = [Violation(fault, (event,)) for event in history for fault in event.faults]
    violations += _etags(history)
    violations += _replaced(history)
    touched: dict[str, list[Event]] = defaultdict(list)
    for event in history:
        for register in event.writes.keys() | event.reads.keys():
            touched[register].append(event)
    for register, events in sorted(touched.items()):
        violations += linearizable(register, events, initial(register))
    return violations


def _etags(history: Iterable[Event]) -> Iterator[Violation]:
    """An etag stands for one state of a resource."""
    seen: dict[str, tuple[str, Event]] = {}
    for event in history:
        for etag, content in event.etags.items():
            first, by = seen.setdefault(etag, (content, event))
            if first != content:
                yield Violation(f"etag {etag} stands for two states: {first}, {content}", (by, event))


def _replaced(history: Iterable[Event]) -> Iterator[Violation]:
    """What is written only if nobody else did meanwhile, is written once."""
    replaced: dict[str, Event] = {}
    for event in history:
        for etag in event.replaces if event.ending is Ending.DONE else ():
            first = replaced.setdefault(etag, event)
            if first is not event:
                yield Violation(f"etag {etag} was replaced twice", (first, event))


@dataclass(slots=True)
class _Cluster:
    """A write with the reads that saw it. The zone is from the first end to the last start."""

    write: Event
    reads: list[Event] = field(default_factory=list)

    @property
    def events(self) -> list[Event]:
        return [self.write, *self.reads]

    def first_end(self) -> float:
        # A write whose end is unknown has none: only who saw it says that it was there.
        write_end = self.write.returned if self.write.ending is Ending.DONE else math.inf
        return min([write_end, *(read.returned for read in self.reads)])

    def last_start(self) -> float:
        return max(event.invoked for event in self.events)

    def witnesses(self) -> tuple[Event, ...]:
        """The write, who shows that the value was there by the first end, and who that it was at the last start."""
        done = [event for event in self.events if event.ending is Ending.DONE]
        shown = (self.write, min(done, key=lambda e: e.returned), max(self.events, key=lambda e: e.invoked))
        return tuple(dict.fromkeys(shown))


def linearizable(register: str, events: Iterable[Event], initial: str) -> list[Violation]:
    """What speaks against it."""
    before = Event("", "initial", -math.inf, -math.inf, Ending.DONE, {register: initial})
    clusters = {initial: _Cluster(before)}
    reads = []
    for event in events:
        if register in event.writes:
            value = event.writes[register]
            assert value not in clusters, f"{value} was written to {register} twice"
            clusters[value] = _Cluster(event)
        elif event.ending is Ending.DONE:
            reads.append(event)

    violations = []
    for read in reads:
        cluster = clusters.get(read.reads[register])
        if cluster is None:
            violations.append(Violation(f"{register}: a value that nobody wrote was read", (read,)))
        elif cluster.write.ending is Ending.REFUSED:
            violations.append(Violation(f"{register}: a write that was refused was read", (cluster.write, read)))
        elif read.returned < cluster.write.invoked:
            violations.append(Violation(f"{register}: a value was read before it was written", (read, cluster.write)))
        else:
            cluster.reads.append(read)
    happened = [each for each in clusters.values() if each.reads or each.write.ending is Ending.DONE]
    return violations + list(_zones(register, happened))


def _zones(register: str, clusters: Iterable[_Cluster]) -> Iterator[Violation]:
    forward, backward = [], []
    for cluster in clusters:
        end, start = cluster.first_end(), cluster.last_start()
        if end < start:
            forward.append((end, start, cluster))
        else:
            backward.append((start, end, cluster))
    forward.sort(key=lambda zone: zone[:2])
    for (_, until, one), (since, _, other) in itertools.pairwise(forward):
        if since < until:
            shown = _in_order((*one.witnesses(), *other.witnesses()))
            yield Violation(f"{register}: {OUT_OF_ORDER}", shown)
    for start, end, cluster in backward:
        for since, until, around in forward:
            if since < start and end < until:
                shown = _in_order((*around.witnesses(), *cluster.witnesses()))
                yield Violation(f"{register}: {OUT_OF_ORDER}", shown)


def _in_order(events: Iterable[Event]) -> tuple[Event, ...]:
    return tuple(sorted(dict.fromkeys(events), key=lambda event: event.invoked))
