"""What is committed without being there: refused where that can be known, and ended by an operator where it is lost."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from handfast.client import FailedPrecondition, InvalidArgument, NotFound, Suite, channel
from handfast.client.errors import Unavailable, service_error
from handfast.client.propagation import Propagated, propagating
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, now
from handfast.server.chassis.ids import new_id
from handfast.server.transactions.coordinator.holdings import Holdings
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.horizon import id_at
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub, TransactionServiceStub
from handfast.users.v1.users_pb2 import DeleteUserRequest, UpdateUserRequest
from tests.accounts.accounts import StartAccounts, StartServer
from tests.calls import bare_channel
from tests.eventually import eventually
from tests.people import create_user
from tests.transactions.calls import Transaction, commit_unasked

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
NOBODY = "127.0.0.1:9"
"""Where no server listens."""


def staged(client: Suite) -> tuple[Transaction, UpdateUserRequest]:
    """A transaction that is about to delete a user, and a plain write of that user."""
    user = create_user(client)
    tx = Transaction(client)
    tx.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=user.user_id))
    return tx, UpdateUserRequest(user=user)


def accept_loss(client: Suite, transaction_id: str, *participants: str) -> pb.Transaction:
    request = pb.AcceptLossRequest(transaction_id=transaction_id, participants=participants)
    return client.transactions.AcceptLoss(request).transaction


def decided(client: Suite, transaction_id: str) -> pb.Transaction:
    return client.transactions.GetTransaction(pb.GetTransactionRequest(transaction_id=transaction_id)).transaction


class TestCommitting:
    def test_what_was_never_staged_is_refused_and_nothing_is_decided(self, client: Suite) -> None:
        tx, _ = staged(client)
        for counts, named, held in (
            ({"preferences": 1}, "preferences: 1", "preferences: 0"),
            ({"users": 2}, "users: 2", "users: 1"),
            ({"users": 1, "preferences": 3}, "preferences: 3", "preferences: 0"),
        ):
            with pytest.raises(FailedPrecondition) as refused:
                tx.commit(**counts)
            assert (refused.value.reason, refused.value.retryable) == ("OPERATIONS_MISSING", False)
            assert refused.value.metadata == {"transaction_id": tx.id, "named": named, "held": held}
        assert tx.state() == pb.TRANSACTION_STATE_UNDECIDED
        assert tx.commit().state == pb.TRANSACTION_STATE_COMMITTED

    def test_what_is_finished_and_what_is_rolled_back_is_answered_by_the_decision(self, client: Suite) -> None:
        tx, _ = staged(client)
        tx.commit()
        assert eventually(lambda: decided(client, tx.id).HasField("finish_time"))
        assert tx.commit().state == pb.TRANSACTION_STATE_COMMITTED
        with pytest.raises(FailedPrecondition) as refused:
            tx.commit(users=2)
        assert refused.value.reason == "COMMIT_CHANGED"


@pytest.fixture
def alone(short_pauses: None, accounts_with: StartAccounts) -> Suite:
    """A coordinator of its own, whose preferences nobody serves."""
    return accounts_with(NOBODY)


class TestAParticipantThatDoesNotAnswer:
    def test_keeps_nobody_from_committing(self, alone: Suite) -> None:
        assert Transaction(alone).commit(preferences=1).state == pb.TRANSACTION_STATE_COMMITTED

    @pytest.mark.usefixtures("short_pauses")
    def test_is_waited_for_where_it_may_have_forgotten_the_transaction(self, accounts_server_with: StartServer) -> None:
        old = id_at(now() - 600 * MICROSECONDS_PER_SECOND)
        branches = [pb.TransactionBranch(participant="preferences", operation_count=1)]
        commit = pb.CommitTransactionRequest(transaction_id=old, branches=branches)
        server = accounts_server_with(NOBODY)
        with bare_channel(server.address) as to_coordinator:  # whose calls are not repeated
            transactions = TransactionServiceStub(to_coordinator)
            with pytest.raises(grpc.RpcError) as refused:
                transactions.CommitTransaction(commit)
            error = service_error(refused.value, "")
            assert (error.code(), error.reason, error.retryable) == (UNAVAILABLE, "PEER_UNAVAILABLE", True)
            found = transactions.GetTransaction(pb.GetTransactionRequest(transaction_id=old)).transaction
            assert found.state == pb.TRANSACTION_STATE_UNDECIDED
        server.stop()

    def test_is_asked_by_one_call_at_a_time_until_it_answers(self) -> None:
        silence = Silence()
        holdings = Holdings(silence.stubs)
        commit = Decision(new_id(), Outcome.COMMITTED, {"users": 1})
        silence.ends.set()
        assert holdings.of(commit).counts == {"users": None}
        silence.ends.clear()
        with ThreadPoolExecutor() as threads:
            asking = threads.submit(holdings.of, commit)
            assert eventually(lambda: len(silence.questions) == 2)
            assert holdings.of(commit).counts == {"users": None}
            assert len(silence.questions) == 2
            silence.answer = pb.QueryBranchResponse(branch=pb.Branch(operation_count=1))
            silence.ends.set()
            assert asking.result().counts == {"users": 1}
        silence.ends.clear()
        with ThreadPoolExecutor() as threads:
            several = [threads.submit(holdings.of, commit) for _ in range(2)]
            assert eventually(lambda: len(silence.questions) == 4)
            silence.ends.set()
            assert [each.result().counts for each in several] == 2 * [{"users": 1}]

    def test_is_not_taken_for_silent_because_a_caller_gave_it_no_time(self) -> None:
        silence = Silence()
        silence.ends.set()
        holdings = Holdings(silence.stubs)
        commit = Decision(new_id(), Outcome.COMMITTED, {"users": 1})
        with propagating(Propagated(deadline_monotonic_s=time.monotonic() + 0.9)):
            assert holdings.of(commit).counts == {"users": None}
        silence.ends.clear()
        with ThreadPoolExecutor() as threads:
            several = [threads.submit(holdings.of, commit) for _ in range(2)]
            assert eventually(lambda: len(silence.questions) == 3)
            silence.ends.set()
            assert [each.result().counts for each in several] == 2 * [{"users": None}]


class Silence:
    """A participant that says nothing until the silence ends, and then its `answer`; it is away where that is None."""

    def __init__(self) -> None:
        self.ends = threading.Event()
        self.answer: pb.QueryBranchResponse | None = None
        self.questions: list[pb.QueryBranchRequest] = []
        self.stubs: Any = {"users": SimpleNamespace(QueryBranch=self)}

    def future(self, request: pb.QueryBranchRequest, timeout: float) -> Silence:
        self.questions.append(request)
        return self

    def cancel(self) -> None:
        self.ends.set()

    def result(self) -> pb.QueryBranchResponse:
        self.ends.wait()
        if self.answer is None:
            raise Unavailable("it is away")
        return self.answer


class TestAcceptingALoss:
    def test_frees_what_is_held_and_finishes_the_transaction(
        self, client: Suite, transactions_database_url: str
    ) -> None:
        tx, plain_write = staged(client)
        commit_unasked(transactions_database_url, tx.id, users=2, preferences=1)
        with pytest.raises(FailedPrecondition) as refused:
            client.users.UpdateUser(plain_write)
        assert refused.value.reason == "COMMITTED_CHANGE_LOST"
        for _ in range(2):
            assert accept_loss(client, tx.id, "users", "preferences").loss_accepted == ["preferences", "users"]
        assert eventually(lambda: decided(client, tx.id).HasField("finish_time"))
        with pytest.raises(NotFound):  # what was staged is applied: it deleted the user
            client.users.UpdateUser(plain_write)
        assert decided(client, tx.id).loss_accepted == ["preferences", "users"]

    def test_also_finishes_a_rollback_of_what_a_participant_has_applied(
        self, client: Suite, addresses: dict[str, str]
    ) -> None:
        tx, _ = staged(client)
        with channel(addresses["users"]) as to_users:
            committed = pb.Decision(transaction_id=tx.id, state=pb.TRANSACTION_STATE_COMMITTED, operation_count=1)
            ParticipantServiceStub(to_users).FinishTransactions(pb.FinishTransactionsRequest(decisions=[committed]))
        tx.rollback()
        assert not accept_loss(client, tx.id, "users").HasField("finish_time")
        assert eventually(lambda: decided(client, tx.id).HasField("finish_time"))

    def test_takes_a_decision_and_who_has_a_part_in_it(self, client: Suite) -> None:
        tx, _ = staged(client)
        with pytest.raises(FailedPrecondition) as refused:
            accept_loss(client, tx.id, "users")
        assert refused.value.reason == "TRANSACTION_NOT_DECIDED"
        assert refused.value.metadata == {"transaction_id": tx.id, "state": "UNDECIDED"}
        tx.commit()
        with pytest.raises(InvalidArgument) as invalid:
            accept_loss(client, tx.id, "users", "preferences")
        assert [violation.field for violation in invalid.value.violations] == ["participants[1]"]
        with pytest.raises(InvalidArgument) as invalid:
            accept_loss(client, "x")
        assert [violation.field for violation in invalid.value.violations] == ["transaction_id", "participants"]
