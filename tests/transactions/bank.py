"""A participant with two kinds of resources, without servers: accounts with what is in them, and entries, each a
text. The coordinator is what the test says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from handfast.server.chassis.clock import now
from handfast.server.chassis.data.database import Database, key_text
from handfast.server.chassis.data.idempotency import IdempotencyStore
from handfast.server.transactions.core.model import (
    NO_REVISION,
    BranchDecision,
    Decision,
    Outcome,
    Read,
    ResourceName,
    StageRequest,
)
from handfast.server.transactions.participant import Participant, ResourceType, UnitOfWork
from handfast.server.transactions.participant.lock_service import locking
from handfast.server.transactions.participant.open_branches import OpenBranches
from handfast.server.transactions.participant.store import Store
from handfast.server.transactions.participant.tables import ParticipantTables, pending_index, resource_columns
from handfast.transactions.v1.transactions_pb2 import LockReadsRequest, LockReadsResponse
from tests.transactions.participants import MINUTE, Coordinator

COMMITTED, ABORTED = Outcome.COMMITTED, Outcome.ABORTED
Work = Callable[[UnitOfWork], None]

metadata = sa.MetaData()
accounts_table = sa.Table(
    "accounts",
    metadata,
    sa.Column("account_id", key_text(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    *resource_columns(),
    pending_index("accounts"),
)
entries_table = sa.Table(
    "entries",
    metadata,
    sa.Column("entry_id", key_text(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    *resource_columns(),
    pending_index("entries"),
)
tables = ParticipantTables(metadata)


class Entries(ResourceType[StringValue]):
    """No two have the same text."""

    def unique_values(self, message: StringValue) -> frozenset[str]:
        return frozenset({f"entry:{message.value}"} if message.value else ())

    def taken(self, value: str) -> Exception:
        return ValueError(f"{value} is taken")


ACCOUNTS = ResourceType(accounts_table, Int64Value)
ENTRIES = Entries(entries_table, StringValue)


class Bank:
    def __init__(self, url: str, open_branches: OpenBranches | None = None, threads: int = 2) -> None:
        self.coordinator = Coordinator()
        self.database = Database(url)
        with self.database.engine.begin() as connection:
            metadata.create_all(connection)
            connection.execute(sa.insert(tables.horizon), {"transaction_id": ""})
        self.participant = Participant(
            Store("users", self.database, tables, [ACCOUNTS, ENTRIES]),
            IdempotencyStore(self.database, tables.requests),
            self.coordinator,
            threads=threads,
            open_branches=open_branches,
        )
        self.accounts, self.entries = self.participant.collection(ACCOUNTS), self.participant.collection(ENTRIES)

    def write(self, work: Callable[[UnitOfWork], object]) -> None:
        """Does it plainly."""
        self.participant.write_plainly("/bank/Write", StringValue(), _replying(work), StringValue)

    def stage(
        self,
        transaction_id: str,
        number: int,
        work: Callable[[UnitOfWork], object],
        content: bytes = b"",
        owner: str = "",
        read_before: Sequence[Read] = (),
    ) -> bytes:
        """Stages it as an operation. Returns what the call has read, encoded."""
        stage = _stage(transaction_id, number, content)._replace(owner=owner)
        work_of_call = _replying(work)
        return self.participant.stage(stage, StringValue(), work_of_call, StringValue, read_before=read_before).reads

    def lock(self, transaction_id: str, number: int, *reads: Read) -> None:
        """Stages the read locks of what a transaction has read."""
        work = locking(self.participant.store.types, transaction_id, reads)
        stage = _stage(transaction_id, number, repr(reads).encode())
        self.participant.stage(stage, LockReadsRequest(), work, LockReadsResponse, read_before=None)

    def finish(self, transaction_id: str, outcome: Outcome, count: int = 0) -> bool:
        """Whether it is finished as decided, and not lost."""
        decision = BranchDecision(transaction_id, outcome, count)
        return self.participant.finisher.finish(decision)[transaction_id]

    def decide(self, transaction_id: str, outcome: Outcome, count: int = 0) -> None:
        """The coordinator decides, and tells nobody by itself."""
        branches = {"users": count} if outcome is Outcome.COMMITTED else {}
        self.coordinator.decisions[transaction_id] = Decision(transaction_id, outcome, branches)

    def open(self, **amounts: int) -> None:
        """Makes accounts with so much in each."""
        for key, amount in amounts.items():
            self.write(put(key, amount))

    def amount(self, key: str) -> int | None:
        version = self.accounts.get(key)
        return None if version is None else version.message.value

    def read(self, key: str) -> Read:
        """What a transaction that reads an account now notes of it."""
        return Read(ResourceName("accounts", key), self.accounts.revisions([key])[key], held=False)

    def rows(self, table: sa.Table) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(table).order_by(*table.primary_key)))

    def left(self) -> list[Any]:
        """What is there of transactions, beside their branches."""
        marks = [
            row
            for table in (accounts_table, entries_table)
            for row in self.rows(table)
            if not row.present or row.pending_transaction_id or row.read_locks
        ]
        claims = [row for row in self.rows(tables.claims) if row.pending_transaction_id]
        return [*self.rows(tables.operations), *self.rows(tables.claim_changes), *marks, *claims]


@contextmanager
def opened(url: str, *, threads: int = 2, **amounts: int) -> Iterator[Bank]:
    """A bank with accounts that have so much in each."""
    bank = Bank(url, threads=threads)
    bank.open(**amounts)
    yield bank
    bank.database.close()


def put(key: str, amount: int) -> Callable[[UnitOfWork], None]:
    return lambda unit: unit.put(ACCOUNTS, key, Int64Value(value=amount))


def delete(key: str) -> Callable[[UnitOfWork], None]:
    return lambda unit: unit.delete(ACCOUNTS, key)


def look(*keys: str) -> Callable[[UnitOfWork], None]:
    """Looks at accounts, and changes nothing."""

    def work(unit: UnitOfWork) -> None:
        for key in keys:
            unit.get(ACCOUNTS, key)

    return work


def enter(key: str, text: str) -> Callable[[UnitOfWork], None]:
    return lambda unit: unit.put(ENTRIES, key, StringValue(value=text))


def absent(key: str) -> Read:
    return Read(ResourceName("accounts", key), NO_REVISION, held=False)


def first_call(transaction_id: str) -> StageRequest:
    return _stage(transaction_id, 1, b"")


def _stage(transaction_id: str, number: int, content: bytes) -> StageRequest:
    return StageRequest(transaction_id, number, now() + MINUTE, transaction_id, content)


def _replying(work: Callable[[UnitOfWork], object]) -> Callable[[UnitOfWork], StringValue]:
    def reply(unit: UnitOfWork) -> StringValue:
        work(unit)
        return StringValue(value="done")

    return reply
