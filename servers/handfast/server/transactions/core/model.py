"""The words of the protocol, as values. Times are in microseconds since the epoch."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

MAX_OPERATIONS = 1000
"""How many operations a transaction may have at one participant."""
MAX_PARTS = 4000
"""How many resources the operations of one branch may change and lock, one that several have counting for each."""
MAX_BYTES = 16 * 1024 * 1024
"""How many bytes the operations of one branch may take. A branch is finished in one local transaction, and on SQLite
nobody else writes meanwhile.
"""
OWNER_LENGTH = 64
"""How many characters say who has opened a branch."""
NO_REVISION = "-"
"""The revision of a resource that does not exist."""


class Outcome(enum.Enum):
    """How a transaction was decided."""

    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"


class BranchState(enum.Enum):
    OPEN = "OPEN"
    CLOSED = "CLOSED"
    FINISHED = "FINISHED"


class StageRequest(NamedTuple):
    """A staged call, as it arrives. `deadline_us` is by the coordinator's clock. `fingerprint` stands for the method
    and the request, so that a repeat differs from another call. `first_attempt` is the id of the transaction's
    first attempt, which says how old it is. `follows` is the id of a committed transaction with one operation here,
    whose change this one would meet. `owner` is who has sent it. `must_own` says that calls carry identities, so that
    only who has opened a branch may stage more of it.
    """

    transaction_id: str
    number: int
    deadline_us: int
    first_attempt: str
    fingerprint: bytes
    follows: str = ""
    owner: str = ""
    must_own: bool = False


class ResourceName(NamedTuple):
    """A resource of a participant, such as `users/ada`."""

    kind: str
    key: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.key}"


class Operation(NamedTuple):
    """A staged call, as it is kept beside its parts. `reply` is what the caller was answered, and `reads` what the call
    had read, both encoded, for a repeat.
    """

    transaction_id: str
    number: int
    fingerprint: bytes
    reply: bytes
    reads: bytes = b""


class Part(NamedTuple):
    """What the operation of this number does with one resource: the pending change, or a read lock where `is_lock`.
    `after_image` is the resource as it will be, in its owner's encoding; None deletes it. An operation that has no
    effect has one part, without a resource.
    """

    number: int
    resource: ResourceName | None
    after_image: bytes | None
    is_lock: bool = False


class Read(NamedTuple):
    """A resource that a transaction has read. `revision` is what its committed row had; NO_REVISION where it did not
    exist. `held` says that the transaction has changed or locked it, so that nobody else changes it before the
    decision.
    """

    resource: ResourceName
    revision: str
    held: bool


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A unique value: who holds it, and the transaction that has a pending change of that. `changes` has who holds it
    after an operation of that transaction, by the operation's number. None is nobody.
    """

    value: str
    holder: str | None
    pending_transaction_id: str | None
    changes: dict[int, str | None]


class Branch(NamedTuple):
    """What a transaction has at one participant. `staged` counts its operations, numbered from 1; `owner` is who has
    opened it.
    """

    transaction_id: str
    state: BranchState
    deadline_us: int
    first_attempt: str = ""
    staged: int = 0
    outcome: Outcome | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """One row of the coordinator's register. `branches` has, by participant, how many operations are committed;
    where ABORTED, the participants that may hold something, each with 0. `loss_accepted` has the participants that an
    operator lets finish without what they have lost.
    """

    transaction_id: str
    outcome: Outcome
    branches: Mapping[str, int]
    abort_reason: str = ""
    loss_accepted: frozenset[str] = frozenset()

    def of(self, participant: str) -> BranchDecision:
        """Rule 4: what it says of this participant."""
        count = self.branches.get(participant, 0) if self.outcome is Outcome.COMMITTED else 0
        return BranchDecision(self.transaction_id, self.outcome, count, participant in self.loss_accepted)


@dataclass(frozen=True, slots=True)
class BranchDecision:
    """A decision as far as it concerns one participant: its operations from 1 to `committed_count` are committed.
    `outcome` is None where the coordinator has forgotten the transaction: then its branches are finished, or nothing of
    it was committed. `loss_accepted` says that an operator lets the participant finish without what it has lost.
    """

    transaction_id: str
    outcome: Outcome | None
    committed_count: int
    loss_accepted: bool = False


Learnt = BranchDecision | None
"""What the coordinator says of a transaction; None where it is undecided."""
