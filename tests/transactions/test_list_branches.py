"""ListBranches: what a participant has not finished."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from handfast.client import InvalidArgument, Suite, channel
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub
from handfast.users.v1.users_pb2 import DeleteUserRequest
from tests.people import create_user
from tests.transactions.calls import Transaction


@pytest.fixture(scope="module")
def participant(addresses: dict[str, str]) -> Iterator[ParticipantServiceStub]:
    with channel(addresses["users"]) as to_users:
        yield ParticipantServiceStub(to_users)


def staged(client: Suite) -> Transaction:
    """A transaction with one operation staged."""
    tx = Transaction(client)
    tx.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=create_user(client).user_id))
    return tx


def unfinished(participant: ParticipantServiceStub, page_size: int = 0) -> list[pb.Branch]:
    """All pages."""
    found: list[pb.Branch] = []
    request = pb.ListBranchesRequest(page_size=page_size)
    while True:
        page = participant.ListBranches(request)
        assert len(page.branches) <= (page_size or 50)
        found += page.branches
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def test_an_open_branch_is_listed_as_it_stands(client: Suite, participant: ParticipantServiceStub) -> None:
    tx = staged(client)
    (branch,) = (each for each in unfinished(participant) if each.transaction_id == tx.id)
    assert branch == pb.Branch(
        transaction_id=tx.id, state=pb.BRANCH_STATE_OPEN, deadline=tx.begun.deadline, operation_count=1
    )
    tx.rollback()


def test_a_closed_branch_is_listed_and_a_finished_one_is_not(
    client: Suite, participant: ParticipantServiceStub
) -> None:
    tx = staged(client)
    participant.CloseBranch(pb.CloseBranchRequest(transaction_id=tx.id))
    states = {each.transaction_id: each.state for each in unfinished(participant)}
    assert states[tx.id] == pb.BRANCH_STATE_CLOSED
    tx.rollback()
    deadline = time.monotonic() + 10
    while tx.id in {each.transaction_id for each in unfinished(participant)}:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_pages_go_from_the_oldest_on(client: Suite, participant: ParticipantServiceStub) -> None:
    mine = [staged(client).id for _ in range(5)]
    ids = [each.transaction_id for each in unfinished(participant, page_size=2)]
    assert ids == sorted(ids)
    assert [id_ for id_ in ids if id_ in mine] == mine
    for id_ in mine:
        client.transactions.RollbackTransaction(pb.RollbackTransactionRequest(transaction_id=id_))


def test_a_page_that_cannot_be_is_refused(participant: ParticipantServiceStub) -> None:
    with pytest.raises(InvalidArgument) as refused:
        participant.ListBranches(pb.ListBranchesRequest(page_size=-1, page_token="x"))
    assert [violation.field for violation in refused.value.violations] == ["page_size", "page_token"]
