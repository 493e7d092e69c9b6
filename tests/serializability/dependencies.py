"""Who read and wrote which version of what, and who therefore comes before whom."""

from __future__ import annotations

import enum
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.serializability.history import Initial, Outcome, Transaction, Write
from tests.serializability.versions import Chain, Version, in_order

INTERNAL = "internal (a transaction contradicts itself)"
GARBAGE = "garbage read (nobody wrote it)"
ABORTED_READ = "G1a (aborted read)"
INTERMEDIATE_READ = "G1b (intermediate read)"


class Kind(enum.Flag):
    WW = enum.auto()
    WR = enum.auto()
    RW = enum.auto()


@dataclass(frozen=True, slots=True)
class Edge:
    """Why `before` comes before `after`: it wrote or read `version`, which `after` read, or followed with a `later`
    version.
    """

    before: Transaction
    after: Transaction
    kind: Kind
    version: Version
    later: Version

    def __str__(self) -> str:
        did = "read" if self.kind is Kind.RW else "wrote"
        then = "read" if self.kind is Kind.WR else f"later {self.later[1]}, written"
        return f"{str(self.kind.name).lower()}: {did} {'='.join(self.version)}, {then} by"


@dataclass(frozen=True, slots=True)
class StrangeRead:
    """What `transaction` read, and who wrote that, if anybody did."""

    name: str
    transaction: Transaction
    version: Version
    writer: Transaction | None = None


class Dependencies:
    """Those of the transactions that are committed. Those of unknown outcome are where a committed one saw what they
    wrote; elsewhere they make no difference.
    """

    def __init__(self, history: Iterable[Transaction], initial: Initial) -> None:
        self._initial = initial
        self._writers = _writers(history, initial)
        self.committed = _committed(history, self._writers)
        self._lasting = {version: each for each in self.committed for version in each.last_writes().items()}
        self._readers: dict[Version, list[Transaction]] = defaultdict(list)
        self._followers: dict[Version, list[Version]] = defaultdict(list)
        for transaction in self.committed:
            read = transaction.first_reads()
            for version in read.items():
                self._readers[version].append(transaction)
            for name, value in transaction.last_writes().items():
                if name in read:
                    self._followers[name, read[name]].append((name, value))

    def strange_reads(self) -> Iterator[StrangeRead]:
        """Reads that are wrong, whatever the order."""
        for transaction in self.committed:
            for read in transaction.contradictions():
                yield StrangeRead(INTERNAL, transaction, (read.object, read.value))
        for version, readers in self._readers.items():
            writer = self._writers.get(version)
            for reader in readers:
                if writer is reader:
                    yield StrangeRead(INTERNAL, reader, version)
                elif not self._exists(version):
                    yield StrangeRead(_strange(writer), reader, version, writer)

    def edges(self) -> Iterator[Edge]:
        """Enough of them that all others follow."""
        for version, writer in self._lasting.items():
            for reader in self._readers.get(version, ()):
                if reader is not writer:
                    yield Edge(writer, reader, Kind.WR, version, version)
        for version, followers in self._followers.items():
            for later in followers:
                yield from self._replaced(version, later)
        for chains in self._chains():
            for one, other in in_order(chains):
                yield from self._replaced(one.last, other.first)

    def _replaced(self, version: Version, later: Version) -> Iterator[Edge]:
        after = self._lasting[later]
        if self._lasting.get(version, after) is not after:
            yield Edge(self._lasting[version], after, Kind.WW, version, later)
        for reader in self._readers.get(version, ()):
            if reader is not after:
                yield Edge(reader, after, Kind.RW, version, later)

    def _chains(self) -> Iterator[list[Chain]]:
        """The chains of each object that has several."""
        inner = {
            later for version, followers in self._followers.items() if self._exists(version) for later in followers
        }
        first: dict[str, list[Version]] = defaultdict(list)
        for version in self._lasting:
            if version not in inner:
                first[version[0]].append(version)
        for name, versions in first.items():
            yield [self._chain(version) for version in ((name, self._initial(name)), *versions)]

    def _chain(self, first: Version) -> Chain:
        versions, touched = [first], list[Transaction]()
        while followers := self._followers.get(versions[-1]):
            versions.append(followers[0])
        for version in versions:
            touched += [self._lasting[version]] if version in self._lasting else []
            touched += self._readers.get(version, ())
        first_end = min(each.last_moment for each in touched) if first in self._lasting else -math.inf
        return Chain(first, versions[-1], first_end, max((each.began for each in touched), default=-math.inf))

    def _exists(self, version: Version) -> bool:
        return version in self._lasting or version[1] == self._initial(version[0])


def _writers(history: Iterable[Transaction], initial: Initial) -> dict[Version, Transaction]:
    writers = dict[Version, Transaction]()
    for transaction in history:
        for each in transaction.operations:
            if isinstance(each, Write):
                assert each.value != initial(each.object), f"{each} is what was there before"
                assert (each.object, each.value) not in writers, f"{each} was written twice"
                writers[each.object, each.value] = transaction
    return writers


def _committed(history: Iterable[Transaction], writers: dict[Version, Transaction]) -> list[Transaction]:
    committed = dict.fromkeys(each for each in history if each.outcome is Outcome.COMMITTED)
    look_at = list(committed)
    while look_at:
        for version in look_at.pop().first_reads().items():
            writer = writers.get(version)
            if writer is not None and writer.outcome is Outcome.UNKNOWN and writer not in committed:
                committed[writer] = None
                look_at.append(writer)
    return list(committed)


def _strange(writer: Transaction | None) -> str:
    if writer is None:
        return GARBAGE
    return ABORTED_READ if writer.outcome is Outcome.ABORTED else INTERMEDIATE_READ
