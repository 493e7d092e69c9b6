"""What is left behind is settled without anybody touching it, and forgotten in the end, on a real database each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from handfast.client import Suite, channel
from handfast.server.accounts import tables as accounts_tables
from handfast.server.accounts.server import SCHEMA as ACCOUNTS_SCHEMA
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, now
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.ids import new_id
from handfast.server.transactions import horizon
from handfast.server.transactions import lost as lost_module
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.errors import TransactionForgotten as CoordinatorForgot
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.horizon import id_at
from handfast.server.transactions.metrics import export_participant
from handfast.server.transactions.participant.errors import CommittedChangeLost, TransactionForgotten
from handfast.server.transactions.participant.finishing import NO_LONGER_KNOWN
from handfast.server.transactions.participant.service import ParticipantServicer
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub
from handfast.users.v1.users_pb2 import (
    DeleteUserRequest,
    GetUserRequest,
)
from tests.eventually import eventually
from tests.people import create_user
from tests.transactions.calls import Transaction
from tests.transactions.participants import Users, old_id

LATER = 3600 * MICROSECONDS_PER_SECOND
DAY = 24 * LATER


def test_what_a_client_that_died_left_is_rolled_back_after_its_deadline(
    client: Suite, addresses: dict[str, str]
) -> None:
    ada = create_user(client)
    tx = Transaction(client, timeout_seconds=2)
    tx.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=ada.user_id))
    with channel(addresses["users"]) as to_users:
        stub = ParticipantServiceStub(to_users)

        def finished() -> bool:
            branch = stub.QueryBranch(pb.QueryBranchRequest(transaction_id=tx.id)).branch
            return branch.state == pb.BRANCH_STATE_FINISHED and branch.outcome == pb.TRANSACTION_STATE_ABORTED

        assert eventually(finished)
    assert tx.state() == pb.TRANSACTION_STATE_ABORTED
    assert client.users.GetUser(GetUserRequest(user_id=ada.user_id)).user == ada


def test_a_sweep_finishes_what_is_decided_and_leaves_what_is_not(users: Users) -> None:
    committed, undecided = old_id(60), old_id(50)
    users.stage(committed, "ada")
    users.stage(undecided, "bob")
    users.coordinator.decisions[committed] = Decision(committed, Outcome.COMMITTED, {"users": 1})
    users.participant.sweeper.sweep()
    with users.database.read() as connection:
        left = users.participant.store.branches.unfinished(connection, "", 10)
    assert [branch.transaction_id for branch in left] == [undecided]
    ada = users.collection.get("ada")
    assert ada is not None
    assert ada.last_transaction_id == committed


def test_one_branch_that_lost_something_holds_up_no_other(users: Users) -> None:
    lost, fine = old_id(60), old_id(50)
    users.stage(lost, "ada")
    users.stage(fine, "bob")
    users.coordinator.decisions[lost] = Decision(lost, Outcome.COMMITTED, {"users": 2})
    users.coordinator.decisions[fine] = Decision(fine, Outcome.COMMITTED, {"users": 1})
    users.participant.sweeper.sweep()
    assert users.collection.get("bob") is not None
    with users.database.read() as connection:
        left = users.participant.store.branches.unfinished(connection, "", 10)
    assert [branch.transaction_id for branch in left] == [lost]


def test_a_branch_whose_loss_is_accepted_is_free_and_can_be_forgotten(users: Users) -> None:
    overcounted, empty = old_id(60), old_id(50)
    users.stage(overcounted, "ada")
    for id_ in (overcounted, empty):
        assert not users.finish(id_, Outcome.COMMITTED, 2)
    users.coordinator.decisions[overcounted] = Decision(overcounted, Outcome.COMMITTED, {"users": 2})
    with pytest.raises(CommittedChangeLost):
        users.stage(new_id(), "ada")
    accepted = Decision(overcounted, Outcome.COMMITTED, {"users": 2}, loss_accepted=frozenset({"users"}))
    users.coordinator.decisions[overcounted] = accepted
    users.stage(new_id(), "ada")  # by whoever is in the way first
    for _ in range(2):
        for id_ in (overcounted, empty):
            result = users.finish(id_, Outcome.COMMITTED, 2, loss_accepted=True)
            assert result
    ada = users.collection.get("ada")
    assert ada is not None
    assert ada.last_transaction_id == overcounted
    assert users.participant.sweeper.prune(now() - 10 * MICROSECONDS_PER_SECOND) == 2


def test_who_is_told_a_commit_that_it_no_longer_knows_says_so_in_its_log(users: Users) -> None:
    done = old_id(60)
    users.stage(done, "ada")
    users.finish(done, Outcome.COMMITTED, 1)
    users.participant.sweeper.prune(now())
    with structlog.testing.capture_logs() as lines:
        for outcome, named in ((Outcome.ABORTED, 0), (Outcome.COMMITTED, 1)):
            assert users.finish(done, outcome, named)
    assert [(line["log_level"], line["event"], line["transaction_id"]) for line in lines] == [
        ("warning", NO_LONGER_KNOWN, done)
    ]


def test_a_branch_that_was_closed_before_anything_arrived_is_not_aborted_before_its_time_can_be_up(
    users: Users,
) -> None:
    nobody: Any = None
    running, long_over = old_id(60), old_id(310)
    for transaction_id in (running, long_over):
        request = pb.CloseBranchRequest(transaction_id=transaction_id)
        closed = ParticipantServicer(users.participant).CloseBranch(request, nobody).branch
        assert not closed.HasField("deadline")  # no staged call gave one
    users.participant.sweeper.sweep()
    assert users.coordinator.decisions.keys() == {long_over}


class Monotonic:
    """Stands for the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_sweeper_tries_what_is_lost_less_and_less_often(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Monotonic()
    monkeypatch.setattr(lost_module, "time", clock)
    lost, fine = old_id(60), old_id(50)
    users.stage(lost, "ada")
    users.coordinator.decisions[lost] = Decision(lost, Outcome.COMMITTED, {"users": 2})

    def found_in_a_sweep() -> bool:
        with structlog.testing.capture_logs() as lines:
            users.participant.sweeper.sweep()
        return bool(lines)

    assert found_in_a_sweep()
    for pause in (5.0, 10.0, 20.0):
        clock.now += pause - 0.1
        assert not found_in_a_sweep()
        clock.now += 0.1
        assert found_in_a_sweep()
    users.stage(fine, "bob")
    users.coordinator.decisions[fine] = Decision(fine, Outcome.COMMITTED, {"users": 1})
    assert not found_in_a_sweep()
    assert users.collection.get("bob") is not None


def test_what_is_lost_is_counted_whoever_finds_it(users: Users) -> None:
    registry = CollectorRegistry()
    export_participant(registry, users.participant)

    def counted() -> float | None:
        return registry.get_sample_value("handfast_committed_changes_lost_total")

    fine, lost = old_id(60), old_id(50)
    users.stage(fine, "ada")
    users.stage(lost, "bob")
    for _ in range(2):
        users.finish(fine, Outcome.COMMITTED, 1)
    assert counted() == 0
    assert not users.finish(lost, Outcome.COMMITTED, 2)
    assert counted() == 1
    users.coordinator.decisions[lost] = Decision(lost, Outcome.COMMITTED, {"users": 2})
    with pytest.raises(CommittedChangeLost):
        users.stage(old_id(40), "bob")
    assert counted() == 2
    users.participant.sweeper.sweep()
    found = counted()
    assert found is not None
    assert found > 2


def test_finished_branches_are_forgotten_and_what_comes_late_is_still_refused(users: Users) -> None:
    done = old_id(60)
    users.stage(done, "ada")
    users.finish(done, Outcome.COMMITTED, 1)
    assert users.participant.sweeper.prune(now()) == 1
    assert users.branches() == 0
    with pytest.raises(TransactionForgotten):
        users.stage(done, "ada")
    assert users.finish(done, Outcome.COMMITTED, 1)
    assert users.branches() == 0


def test_a_participant_whose_clock_was_a_day_ahead_once_takes_what_is_new(users: Users) -> None:
    done = old_id(60)
    users.stage(done, "ada")
    users.finish(done, Outcome.COMMITTED, 1)
    for forgotten in (1, 0):
        assert users.participant.sweeper.prune(now() + DAY) == forgotten
    users.stage(new_id(), "bob")
    with pytest.raises(TransactionForgotten):
        users.stage(done, "cyd")


def test_an_open_branch_keeps_all_that_came_after_it(users: Users) -> None:
    first, open_, last = old_id(60), old_id(50), old_id(40)
    for transaction_id, user_id in ((first, "ada"), (open_, "bob"), (last, "cyd")):
        users.stage(transaction_id, user_id)
    users.finish(first, Outcome.COMMITTED, 1)
    users.finish(last, Outcome.COMMITTED, 1)
    assert users.participant.sweeper.prune(now()) == 1
    assert users.branches() == 2
    assert users.finish(open_, Outcome.COMMITTED, 1)
    assert users.collection.get("bob") is not None
    assert users.participant.sweeper.prune(now()) == 2


@pytest.fixture
def register(database_url: str) -> Iterator[DecisionStore]:
    database = Database(database_url)
    upgrade(database, ACCOUNTS_SCHEMA)
    yield DecisionStore(database, accounts_tables.coordinator)
    database.close()


def test_finished_decisions_are_forgotten_and_none_is_made_in_their_place(register: DecisionStore) -> None:
    older, done = old_id(61), old_id(60)
    register.decide(Decision(done, Outcome.COMMITTED, {"users": 1}))
    register.mark_finished([done])
    assert register.prune(id_at(now())) == 1
    found, horizon = register.find([done])
    assert not found
    assert done < horizon
    for transaction_id in (older, done):
        with pytest.raises(CoordinatorForgot):
            register.decide(Decision(transaction_id, Outcome.ABORTED, {}))


def test_a_backlog_is_forgotten_some_at_a_time(register: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizon, "FORGOTTEN_AT_ONCE", 2)
    decisions = DecisionStore(register.database, accounts_tables.coordinator)
    ids = [old_id(60 - number) for number in range(5)]
    for transaction_id in ids:
        decisions.decide(Decision(transaction_id, Outcome.COMMITTED, {"users": 1}))
    decisions.mark_finished(ids)
    once = iter([True, False])
    assert decisions.prune(id_at(now()), lambda: next(once)) == 2
    found, reached = decisions.find(ids)
    assert found.keys() == set(ids[2:])
    assert ids[1] < reached < ids[2]
    assert decisions.prune(id_at(now())) == 3


def test_a_coordinator_whose_clock_was_a_day_ahead_once_decides_what_is_new(register: DecisionStore) -> None:
    done, fresh = old_id(60), new_id()
    register.decide(Decision(done, Outcome.COMMITTED, {"users": 1}))
    register.mark_finished([done])
    for forgotten in (1, 0):
        assert register.prune(id_at(now() + DAY)) == forgotten
    assert register.decide(Decision(fresh, Outcome.COMMITTED, {"users": 1})).inserted
    with pytest.raises(CoordinatorForgot):
        register.decide(Decision(done, Outcome.ABORTED, {}))


def test_a_decision_that_somebody_has_not_confirmed_is_kept(register: DecisionStore) -> None:
    unconfirmed, done, fresh = old_id(60), old_id(50), new_id()
    for transaction_id in (unconfirmed, done):
        register.decide(Decision(transaction_id, Outcome.COMMITTED, {"users": 1}))
    register.mark_finished([done])
    assert register.prune(id_at(now())) == 0
    found, _ = register.find([unconfirmed, done])
    assert found.keys() == {unconfirmed, done}
    assert register.decide(Decision(fresh, Outcome.ABORTED, {})).decision.outcome is Outcome.ABORTED
