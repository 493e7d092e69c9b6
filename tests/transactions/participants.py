"""The users participant on a database of a test's own, without servers: the coordinator is what the test says."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import sqlalchemy as sa

from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.idempotency import IdempotencyStore
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.transactions.core.model import BranchDecision, Decision, Learnt, Outcome, Read, StageRequest
from handfast.server.transactions.horizon import id_at
from handfast.server.transactions.participant import Participant
from handfast.server.transactions.participant.lock_service import locking
from handfast.server.transactions.participant.store import Store
from handfast.server.users import tables
from handfast.server.users.server import SCHEMA, USERS
from handfast.transactions.v1.transactions_pb2 import LockReadsRequest, LockReadsResponse
from handfast.users.v1.users_pb2 import UpdateUserRequest, UpdateUserResponse, User

MINUTE = 60 * MICROSECONDS_PER_SECOND


@dataclass
class Coordinator:
    """Answers the users participant as the coordinator would, from what a test has decided."""

    decisions: dict[str, Decision] = field(default_factory=dict)

    def ask(self, transaction_ids: Collection[str]) -> dict[str, Learnt]:
        return {id_: self.decisions[id_].of("users") if id_ in self.decisions else None for id_ in transaction_ids}

    def owner_keys(self) -> list[bytes]:
        return []

    def abort(self, transaction_id: str) -> Learnt:
        return self.decisions.setdefault(transaction_id, Decision(transaction_id, Outcome.ABORTED, {})).of("users")


class Users:
    """The participant."""

    def __init__(self, url: str, clock: Clock = now) -> None:
        self._clock = clock
        self.coordinator = Coordinator()
        self.database = Database(url)
        upgrade(self.database, SCHEMA)
        self.requests = IdempotencyStore(self.database, tables.participant.requests, clock)
        store = Store("users", self.database, tables.participant, [USERS])
        self.participant = Participant(store, self.requests, self.coordinator, threads=2, clock=clock)
        self.collection = self.participant.collection(USERS)

    def stage(self, transaction_id: str, user_id: str, number: int = 1, email: str = "") -> None:
        """Stages that there is this user, whatever there is now; without an email it has one of its own."""
        user = User(user_id=user_id, email=email or f"{user_id}@example.com")
        self._stage(transaction_id, user_id, number, user)

    def stage_deletion(self, transaction_id: str, user_id: str, number: int) -> None:
        self._stage(transaction_id, user_id, number, None)

    def _stage(self, transaction_id: str, user_id: str, number: int, user: User | None) -> None:
        stage = StageRequest(transaction_id, number, self._clock() + MINUTE, transaction_id, b"")
        reply = UpdateUserResponse(user=user)
        work = self.collection.changing(user_id, lambda before: (user, reply))
        self.participant.stage(stage, UpdateUserRequest(), work, UpdateUserResponse)

    def lock(self, transaction_id: str, number: int, *reads: Read) -> None:
        """Stages the read locks of what a transaction has read."""
        work = locking(self.participant.store.types, transaction_id, reads)
        stage = StageRequest(transaction_id, number, self._clock() + MINUTE, transaction_id, b"")
        self.participant.stage(stage, LockReadsRequest(), work, LockReadsResponse, read_before=None)

    def finish(
        self, transaction_id: str, outcome: Outcome, committed_count: int, *, loss_accepted: bool = False
    ) -> bool:
        """Whether it is finished as decided, and not lost."""
        decision = BranchDecision(transaction_id, outcome, committed_count, loss_accepted)
        return self.participant.finisher.finish(decision)[transaction_id]

    def create(self, *user_ids: str) -> None:
        """Each in a transaction of its own, that is finished."""
        for number, user_id in enumerate(user_ids):
            transaction_id = old_id(3000 - number)
            self.stage(transaction_id, user_id)
            self.finish(transaction_id, Outcome.COMMITTED, 1)

    def branches(self) -> int:
        with self.database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(tables.participant.branches)).scalar_one()

    def holder(self, email: str) -> str | None:
        """Who has this email."""
        found = self.collection.holder(f"email:{email}")
        return None if found is None else found.user_id


def old_id(seconds: int) -> str:
    """The id of a transaction that began so long ago."""
    return id_at(now() - seconds * MICROSECONDS_PER_SECOND)
