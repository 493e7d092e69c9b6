"""The words of the protocol, as values."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

MAX_OPERATIONS = 1000
"""How many operations a transaction may have at one participant."""


class Outcome(enum.Enum):
    """How a transaction was decided."""

    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"


class BranchState(enum.Enum):
    OPEN = "OPEN"
    CLOSED = "CLOSED"
    FINISHED = "FINISHED"


@dataclass(frozen=True, slots=True)
class StageRequest:
    """A staged call, as it arrives. `deadline` is in microseconds since the epoch, by the coordinator's clock.
    `fingerprint` stands for the method and the request, so that a repeat can be told from another call.
    `first_attempt` is the id of the transaction's first attempt, which says how old it is.
    """

    transaction_id: str
    number: int
    deadline: int
    first_attempt: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Operation:
    """A staged call, as it is kept: the pending change of one resource. `image` is the resource as it will be, in its
    owner's encoding; None deletes it. `reply` is what the caller was answered, for a repeat."""

    transaction_id: str
    number: int
    resource: str
    fingerprint: bytes
    image: bytes | None
    reply: bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.image or b"") + len(self.reply)


@dataclass(frozen=True, slots=True)
class ClaimChange:
    """What an operation, by its number, makes of a unique value: who holds it from then on, None for nobody."""

    number: int
    value: str
    holder: str | None


@dataclass(frozen=True, slots=True)
class Branch:
    """What a transaction has at one participant. `staged` counts its operations, numbered from 1."""

    transaction_id: str
    state: BranchState
    deadline: int
    first_attempt: str = ""
    staged: int = 0
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One row of the coordinator's register. `branches` has, by participant, how many operations are committed;
    where ABORTED, the participants that may hold something, each with 0. `loss_accepted` has the participants that an
    operator lets finish without what they have lost."""

    transaction_id: str
    outcome: Outcome
    branches: Mapping[str, int]
    abort_reason: str = ""
    loss_accepted: frozenset[str] = frozenset()

    def named(self, participant: str) -> int:
        """How many operations of this participant the decision commits."""
        return self.branches.get(participant, 0) if self.outcome is Outcome.COMMITTED else 0
