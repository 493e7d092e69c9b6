"""ParticipantService: the coordinator's door to a service's branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from handfast.client import FailedPrecondition, InvalidArgument, NotFound, Suite, channel
from handfast.server.chassis.ids import new_id
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub
from handfast.users.v1.users_pb2 import DeleteUserRequest, GetUserRequest, User
from tests.people import create_user
from tests.transactions.calls import Transaction


@pytest.fixture(scope="module")
def participant(addresses: dict[str, str]) -> Iterator[ParticipantServiceStub]:
    with channel(addresses["users"]) as to_users:
        yield ParticipantServiceStub(to_users)


@pytest.fixture
def ada(client: Suite) -> User:
    return create_user(client)


@pytest.fixture
def tx(client: Suite, ada: User) -> Transaction:
    """A transaction that is about to delete ada."""
    transaction = Transaction(client)
    transaction.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=ada.user_id))
    return transaction


def finish(
    participant: ParticipantServiceStub, transaction_id: str, state: pb.TransactionState.ValueType, count: int = 0
) -> pb.FinishResult.ValueType:
    decision = pb.Decision(transaction_id=transaction_id, state=state, operation_count=count)
    (result,) = participant.FinishTransactions(pb.FinishTransactionsRequest(decisions=[decision])).results
    assert result.transaction_id == transaction_id
    return result.result


def query(participant: ParticipantServiceStub, transaction_id: str) -> pb.Branch:
    return participant.QueryBranch(pb.QueryBranchRequest(transaction_id=transaction_id)).branch


def test_a_branch_shows_what_is_staged_and_how_it_was_finished(
    participant: ParticipantServiceStub, tx: Transaction
) -> None:
    branch = query(participant, tx.id)
    assert (branch.state, branch.operation_count) == (pb.BRANCH_STATE_OPEN, 1)
    assert branch.deadline == tx.begun.deadline
    tx.rollback()
    assert finish(participant, tx.id, pb.TRANSACTION_STATE_ABORTED) == pb.FINISH_RESULT_CONFIRMED
    branch = query(participant, tx.id)
    assert (branch.state, branch.outcome) == (pb.BRANCH_STATE_FINISHED, pb.TRANSACTION_STATE_ABORTED)


def test_a_branch_that_never_was_is_absent(participant: ParticipantServiceStub) -> None:
    assert query(participant, new_id()).state == pb.BRANCH_STATE_ABSENT


def test_finishing_is_idempotent(
    client: Suite, participant: ParticipantServiceStub, tx: Transaction, ada: User
) -> None:
    tx.commit()
    for _ in range(2):
        assert finish(participant, tx.id, pb.TRANSACTION_STATE_COMMITTED, 1) == pb.FINISH_RESULT_CONFIRMED
    with pytest.raises(NotFound):
        client.users.GetUser(GetUserRequest(user_id=ada.user_id))


def test_a_committed_operation_that_is_not_held_is_lost_and_stays_so(participant: ParticipantServiceStub) -> None:
    unheard = new_id()
    for _ in range(2):
        assert finish(participant, unheard, pb.TRANSACTION_STATE_COMMITTED, 1) == pb.FINISH_RESULT_LOST
    assert query(participant, unheard).state == pb.BRANCH_STATE_ABSENT


def test_what_is_dropped_before_it_is_staged_is_refused_when_it_arrives(
    client: Suite, participant: ParticipantServiceStub, ada: User
) -> None:
    tx = Transaction(client)
    assert finish(participant, tx.id, pb.TRANSACTION_STATE_ABORTED) == pb.FINISH_RESULT_CONFIRMED
    with pytest.raises(FailedPrecondition) as refused:
        client.users.DeleteUser(DeleteUserRequest(user_id=ada.user_id), metadata=tx.metadata(1))
    assert refused.value.reason == "BRANCH_NOT_OPEN"


def test_a_closed_branch_takes_no_more_and_what_it_has_can_still_commit(
    client: Suite, participant: ParticipantServiceStub, tx: Transaction, ada: User
) -> None:
    closed = participant.CloseBranch(pb.CloseBranchRequest(transaction_id=tx.id)).branch
    assert (closed.state, closed.operation_count) == (pb.BRANCH_STATE_CLOSED, 1)
    other = create_user(client)
    with pytest.raises(FailedPrecondition) as refused:
        client.users.DeleteUser(DeleteUserRequest(user_id=other.user_id), metadata=tx.metadata(2))
    assert refused.value.reason == "BRANCH_NOT_OPEN"
    tx.commit()
    with pytest.raises(NotFound):
        client.users.GetUser(GetUserRequest(user_id=ada.user_id))


def test_a_branch_can_be_closed_before_anything_arrives(
    client: Suite, participant: ParticipantServiceStub, ada: User
) -> None:
    tx = Transaction(client)
    closed = participant.CloseBranch(pb.CloseBranchRequest(transaction_id=tx.id)).branch
    assert (closed.state, closed.operation_count) == (pb.BRANCH_STATE_CLOSED, 0)
    with pytest.raises(FailedPrecondition):
        client.users.DeleteUser(DeleteUserRequest(user_id=ada.user_id), metadata=tx.metadata(1))


def test_requests_that_cannot_be_are_refused_with_every_fault(participant: ParticipantServiceStub) -> None:
    decisions = [pb.Decision(transaction_id="x", operation_count=-1), pb.Decision(transaction_id="x")]
    with pytest.raises(InvalidArgument) as refused:
        participant.FinishTransactions(pb.FinishTransactionsRequest(decisions=decisions))
    assert [violation.field for violation in refused.value.violations] == [
        "decisions",
        "decisions[0].transaction_id",
        "decisions[0].state",
        "decisions[0].operation_count",
        "decisions[1].transaction_id",
        "decisions[1].state",
    ]


def test_of_too_many_decisions_none_is_looked_at(participant: ParticipantServiceStub) -> None:
    with pytest.raises(InvalidArgument) as refused:
        participant.FinishTransactions(pb.FinishTransactionsRequest(decisions=[pb.Decision()] * 1001))
    assert [violation.field for violation in refused.value.violations] == ["decisions"]


def test_calls_for_another_participant_are_refused_and_do_nothing(
    participant: ParticipantServiceStub, tx: Transaction
) -> None:
    dropped = pb.Decision(transaction_id=tx.id, state=pb.TRANSACTION_STATE_ABORTED)
    calls: list[tuple[Any, Any]] = [
        (participant.FinishTransactions, pb.FinishTransactionsRequest(decisions=[dropped])),
        (participant.CloseBranch, pb.CloseBranchRequest(transaction_id=tx.id)),
        (participant.QueryBranch, pb.QueryBranchRequest(transaction_id=tx.id)),
        (participant.ListBranches, pb.ListBranchesRequest()),
    ]
    for method, request in calls:
        request.participant = "credits"
        with pytest.raises(FailedPrecondition) as refused:
            method(request)
        assert refused.value.reason == "WRONG_PARTICIPANT"
        assert refused.value.metadata == {"asked": "credits", "participant": "users"}
        assert query(participant, tx.id).state == pb.BRANCH_STATE_OPEN
    for method, request in reversed(calls):
        request.participant = "users"
        method(request)
    assert query(participant, tx.id).state == pb.BRANCH_STATE_FINISHED
