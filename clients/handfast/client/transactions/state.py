"""What a transaction has done so far, and what is left to do to end it. It sends nothing itself: the synchronous
transaction, the one for asyncio and the simulation do what it says, and tell it how that went.

The rules are those of docs/atomic-commit.md: operations are numbered for each participant; what was read must still
hold when the transaction commits, so it is locked first where nothing else holds it; and a transaction that only reads
takes no locks, but asks whether what it has read is still so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from handfast.transactions.v1.transactions_pb2 import Read

ABSENT = "-"
"""The revision of what does not exist."""
MAX_READS = 1000  # of one LockReads or CompareReads


class ReadChanged(Exception):
    """Something that the transaction has read has changed since."""

    def __init__(self, participant: str, resource: str) -> None:
        super().__init__(f"{resource} has changed since the transaction read it")
        self.participant, self.resource = participant, resource


class NotConfirmed(Exception):
    """A service answered a call of the transaction as if it were a call like any other."""

    def __init__(self, participant: str, confirmed: str | None = None) -> None:
        says = "did not confirm that it takes part" if confirmed is None else f"calls itself {confirmed}"
        super().__init__(f"The service at the address of {participant} {says}")
        self.participant, self.confirmed = participant, confirmed


Reads: TypeAlias = Mapping[str, Mapping[str, str]]
"""For each participant the revisions of resources, as they were read."""


@dataclass(frozen=True, slots=True)
class Compare:
    """Call CompareReads at each of these, side by side, and tell `compared` what it answers."""

    reads: Reads


@dataclass(frozen=True, slots=True)
class Lock:
    """Call LockReads at each of these, side by side: each an `operation`, then `staged` and `locked`."""

    reads: Reads


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit these numbers of operations. What the coordinator answers is the outcome."""

    operations: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RollBack:
    """Roll back: `doomed` says why. That is the outcome, whether the coordinator answers or not."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """There is nothing to do. The transaction is committed, or rolled back where it is `doomed`."""


Step: TypeAlias = Compare | Lock | Commit | RollBack | Nothing


@dataclass(slots=True)
class _Branch:
    """What the transaction has at one participant."""

    begun: int = 0
    """How many operations were sent."""
    staged: int = 0
    """How many of them were acknowledged."""
    reads: dict[str, str] = field(default_factory=dict)
    """The revisions of the resources that were read."""
    safe: set[str] = field(default_factory=set)
    """Those that nobody else can change until the decision, and those that were compared at the end."""


class TransactionState:
    """Not safe for threads: who uses it from several keeps them apart."""

    def __init__(self) -> None:
        self.doomed: BaseException | None = None
        """Why the transaction can only be rolled back: the first of the reasons."""
        self._branches: dict[str, _Branch] = {}

    def operation(self, participant: str) -> int:
        """The number of the next staged call at the participant. One call at a time: the next begins when this one was
        told to `staged` or `not_let_in`, or the transaction is doomed.
        """
        branch = self._branch(participant)
        assert branch.begun == branch.staged, "the operation before is not acknowledged"
        branch.begun += 1
        return branch.begun

    def not_let_in(self, participant: str) -> None:
        """A staged call was refused before it was looked at, and nothing rests on it: the next one has its number."""
        self._branch(participant).begun -= 1

    def staged(self, participant: str, confirmed: str | None, reads: Iterable[Read] | None) -> None:
        """A staged call was answered: by the participant that its reply names in the trailer `handfast-staged`, if any,
        after it had read this, if it says so. Raises NotConfirmed or ReadChanged, and dooms the transaction.
        """
        if confirmed != participant:
            raise self.doom(NotConfirmed(participant, confirmed))
        self._branch(participant).staged += 1
        self.read(participant, reads)

    def read(self, participant: str, reads: Iterable[Read] | None) -> None:
        """A reading call was answered, be it with a reply or with an error, and has read this; None where it does not
        say. Raises NotConfirmed or ReadChanged, and dooms the transaction.
        """
        if reads is None:
            raise self.doom(NotConfirmed(participant))
        branch = self._branch(participant)
        for each in reads:
            if branch.reads.setdefault(each.resource, each.revision) != each.revision:
                raise self.doom(ReadChanged(participant, each.resource))
            if each.held:
                branch.safe.add(each.resource)

    def unsafe(self, participant: str, only_absent: bool = False) -> Mapping[str, str]:
        """What has been read there and may change still: as much of it as goes into one call."""
        branch = self._branch(participant)
        reads = (
            (resource, revision)
            for resource, revision in branch.reads.items()
            if resource not in branch.safe and (revision == ABSENT or not only_absent)
        )
        return dict(islice(reads, MAX_READS))

    def locked(self, participant: str, reads: Iterable[str]) -> None:
        """LockReads was staged."""
        self._branch(participant).safe.update(reads)

    def compared(self, participant: str, reads: Iterable[str], changed: Iterable[str]) -> None:
        """CompareReads was answered. Raises ReadChanged, and dooms the transaction."""
        for resource in changed:
            raise self.doom(ReadChanged(participant, resource))
        self._branch(participant).safe.update(reads)

    def participants(self) -> list[str]:
        """Where something may be staged."""
        return [name for name, branch in self._branches.items() if branch.begun]

    def doom(self, reason: BaseException) -> BaseException:
        """A staged call was refused, or failed and may be staged or not; or the caller gives the transaction up.
        (Not for a read that failed: what it has read goes to `read`, if it says so.) Returns the reason.
        """
        self.doomed = self.doomed or reason
        return reason

    def next_step(self) -> Step:
        """What to do next to end the transaction, once no call of it is under way. Ask again after each step, until
        it is Commit, RollBack or Nothing: these are the last.
        """
        has_begun = bool(self.participants())
        if self.doomed:
            return RollBack() if has_begun else Nothing()
        unsafe, absent = self._unsafe(), self._unsafe(only_absent=True)
        # What does not exist has no revision that tells one time from another: of several, each may have existed
        # whenever the others did not.
        if has_begun or sum(map(len, absent.values())) > 1:
            return Lock(unsafe) if unsafe else Commit(self._operations())
        if not unsafe or sum(len(branch.reads) for branch in self._branches.values()) == 1:
            return Nothing()
        # What exists was the same from when it was read until it is compared. What does not exist may have been there
        # between, so it is compared first, at a time for which the others are known.
        return Compare(absent or unsafe)

    def _branch(self, participant: str) -> _Branch:
        return self._branches.setdefault(participant, _Branch())

    def _unsafe(self, only_absent: bool = False) -> Reads:
        unsafe = {name: self.unsafe(name, only_absent) for name in self._branches}
        return {name: reads for name, reads in unsafe.items() if reads}

    def _operations(self) -> Mapping[str, int]:
        return {name: branch.staged for name, branch in self._branches.items() if branch.staged}
