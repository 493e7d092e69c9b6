"""The check of whole transactions finds what is wrong where a rule about what they read is left out."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from handfast.client import Suite, Transaction, connect
from handfast.client.transactions.state import Commit, Compare, Lock, Nothing, Step, TransactionState
from handfast.server.accounts.server import build as build_accounts
from handfast.server.chassis.server import Server
from handfast.server.cli.ports import free_first_port
from handfast.server.preferences.server import build as build_preferences
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.transactions.coordinator.service import TransactionServicer
from handfast.server.transactions.core import conflicts
from handfast.server.transactions.participant.service import ParticipantServicer
from handfast.server.users.server import build as build_users
from handfast.transactions.v1 import transactions_pb2 as pb
from tests.crashes.rivals import Rival, compete
from tests.crashes.transactions import Row
from tests.crashes.world import Seen

BUILD: Mapping[str, Callable[[SuiteSettings], Server]] = {
    "users": build_users,
    "preferences": build_preferences,
    "accounts": build_accounts,
}
CLIENTS = 4
ROUNDS = 20
"""Of a second each; the fault shows in the first or the second."""


class Aimed(Rival):
    """One client changes a user by calls on their own, and then looks at preferences or changes them. Who sees the
    second without the first is wrong; the others, that read both, and write preferences or nothing, are apt to.
    """

    def step(self) -> None:
        user, preferences = self.both_sides(self.world.ids[0])
        match self.name:
            case "c0":
                self.call(user, write=True)
                self.call(preferences, write=self.random.random() < 0.5)
                time.sleep(0.01)
            case "c1":
                self.transact([user, preferences])
            case _:
                self.transact([user, preferences], preferences)


def slow_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that others change what a transaction has read before it reads the next."""
    read = Row.read

    def slowly(self: Row, by: Suite | Transaction, seen: Seen) -> str:
        etag = read(self, by, seen)
        if isinstance(by, Transaction):
            pause()
        return etag

    monkeypatch.setattr(Row, "read", slowly)


def slow_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that others come between the locks of a transaction and its decision."""
    commit = TransactionServicer.CommitTransaction

    def slowly(
        self: TransactionServicer, request: pb.CommitTransactionRequest, context: grpc.ServicerContext
    ) -> pb.CommitTransactionResponse:
        pause()
        return commit(self, request, context)

    monkeypatch.setattr(TransactionServicer, "CommitTransaction", slowly)


def pause() -> None:
    time.sleep(random.choice((0.0, 0.05)))


def locks_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client commits without locking what it has read."""
    next_step = TransactionState.next_step

    def without_locks(self: TransactionState) -> Step:
        step = next_step(self)
        return Commit(self._operations()) if isinstance(step, Lock) else step

    monkeypatch.setattr(TransactionState, "next_step", without_locks)


def reads_not_compared_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client takes what a transaction that only reads has seen for one state."""
    next_step = TransactionState.next_step

    def without_comparing(self: TransactionState) -> Step:
        step = next_step(self)
        return Nothing() if isinstance(step, Compare) else step

    slow_reads(monkeypatch)
    monkeypatch.setattr(TransactionState, "next_step", without_comparing)


def writes_not_compared_with_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not care that what it writes has another revision than what it read."""

    def read(self: TransactionState, participant: str, reads: Iterable[pb.Read] | None) -> None:
        branch = self._branch(participant)
        for each in reads or ():
            branch.reads[each.resource] = each.revision
            if each.held:
                branch.safe.add(each.resource)

    monkeypatch.setattr(TransactionState, "read", read)


def locks_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers check what was read, and let others change it before the decision."""
    slow_commits(monkeypatch)
    monkeypatch.setattr(conflicts, "lock_blocker", lambda holders, mine=None: None)


def locks_released_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers release locks when the coordinator asks what they hold, which is before the decision."""
    query_branch = ParticipantServicer.QueryBranch

    def release_first(
        self: ParticipantServicer, request: pb.QueryBranchRequest, context: grpc.ServicerContext
    ) -> pb.QueryBranchResponse:
        store = self._store

        def release(connection: sa.Connection) -> None:
            parts: Any = store.operations.parts_of(connection, [request.transaction_id])
            for part in parts.get(request.transaction_id, ()):
                if part.is_lock:
                    store.rows[part.resource.kind].end_read_locks(connection, [part.resource.key])

        store.database.write(release)
        pause()
        return query_branch(self, request, context)

    monkeypatch.setattr(ParticipantServicer, "QueryBranch", release_first)


def no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_reads(monkeypatch)
    slow_commits(monkeypatch)


@pytest.fixture
def faces(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sequence[Suite]]:
    """Clients of a suite in which the fault that the test names is planted. Its servers run in this process."""
    request.param(monkeypatch)
    first_port = free_first_port()
    addresses = {name: f"127.0.0.1:{first_port + place}" for place, name in enumerate(BUILD)}
    with contextlib.ExitStack() as stack:
        for name, build in BUILD.items():
            settings = SuiteSettings(
                name=name,
                listen=addresses[name],
                database_url=sqlite_url(tmp_path / f"{name}.sqlite3"),
                migrate=True,
                grace=0.5,
                log_level="error",
                users_address=addresses["users"],
                preferences_address=addresses["preferences"],
                accounts_address=addresses["accounts"],
            )
            server = build(settings)
            server.start()
            stack.callback(server.stop)
        yield [stack.enter_context(connect(*addresses.values())) for _ in range(CLIENTS)]


FAULTS = (
    locks_left_out,
    reads_not_compared_at_the_end,
    writes_not_compared_with_reads,
    locks_not_held,
    locks_released_early,
)


@pytest.mark.parametrize("faces", FAULTS, indirect=True, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(faces: Sequence[Suite]) -> None:
    for number in range(ROUNDS):
        report = compete(faces, prefix=f"round-{number}", kind=Aimed, seconds=1)
        if report.anomalies:
            print(report)
            return
    pytest.fail("no anomaly")


@pytest.mark.parametrize("faces", [no_fault], indirect=True)
def test_nothing_is_found_without_a_fault(faces: Sequence[Suite]) -> None:
    report = compete(faces, prefix="round", kind=Aimed, seconds=2)
    print(report)
    assert not report.anomalies
