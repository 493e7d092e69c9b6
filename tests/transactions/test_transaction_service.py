"""TransactionService: the register of decisions, as callers and operators see it."""

from __future__ import annotations

import datetime
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration

from handfast.client import Aborted, FailedPrecondition, InvalidArgument, Suite
from handfast.server.chassis.ids import new_id
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.users.v1.users_pb2 import DeleteUserRequest
from tests.people import create_user
from tests.transactions.calls import Transaction


def begin(client: Suite, timeout: Duration | None = None) -> pb.Transaction:
    return client.transactions.BeginTransaction(pb.BeginTransactionRequest(timeout=timeout)).transaction


def staged(client: Suite) -> Transaction:
    """A transaction with one operation staged."""
    tx = Transaction(client)
    tx.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=create_user(client).user_id))
    return tx


def fields_at_fault(error: InvalidArgument) -> list[str]:
    return [violation.field for violation in error.violations]


class TestBegin:
    def test_mints_an_id_and_a_deadline_and_nothing_is_decided(self, client: Suite) -> None:
        before = datetime.datetime.now(datetime.UTC)
        transaction = begin(client)
        assert UUID(transaction.transaction_id).version == 7
        assert transaction.state == pb.TRANSACTION_STATE_UNDECIDED
        seconds = (transaction.deadline.ToDatetime(datetime.UTC) - before).total_seconds()
        assert 29 < seconds < 60

    def test_takes_the_time_that_it_is_asked_for(self, client: Suite) -> None:
        begin(client, Duration(nanos=1))
        long, short = begin(client, Duration(seconds=300)), begin(client, Duration(seconds=1))
        assert 290 < long.deadline.ToSeconds() - short.deadline.ToSeconds() < 310

    @pytest.mark.parametrize(
        "timeout",
        [
            Duration(),
            Duration(seconds=-1),
            Duration(nanos=-1),
            Duration(seconds=300, nanos=1),
            Duration(seconds=2**63 - 1),
            Duration(seconds=-(2**63)),
        ],
        ids=str,
    )
    def test_refuses_a_time_beyond_its_limits(self, client: Suite, timeout: Duration) -> None:
        with pytest.raises(InvalidArgument) as refused:
            begin(client, timeout)
        assert fields_at_fault(refused.value) == ["timeout"]
        assert "up to 300 seconds" in refused.value.message

    # https://protobuf.dev/reference/protobuf/google.protobuf/#duration
    @pytest.mark.parametrize(
        "timeout",
        [
            Duration(seconds=1, nanos=-5),
            Duration(seconds=-1, nanos=5),
            Duration(seconds=1, nanos=1_000_000_000),
            Duration(nanos=2**31 - 1),
            Duration(seconds=2, nanos=-1_000_000_000),
        ],
        ids=str,
    )
    def test_refuses_a_malformed_time(self, client: Suite, timeout: Duration) -> None:
        with pytest.raises(InvalidArgument) as refused:
            begin(client, timeout)
        assert fields_at_fault(refused.value) == ["timeout"]
        assert "nanos" in refused.value.message

    def test_mints_further_ones_in_their_order_with_the_same_deadline(self, client: Suite) -> None:
        reply = client.transactions.BeginTransaction(pb.BeginTransactionRequest(further=32))
        begun = [reply.transaction, *reply.further]
        ids = [each.transaction_id for each in begun]
        assert len(set(ids)) == 33
        assert ids == sorted(ids)
        assert {each.deadline.ToMicroseconds() for each in begun} == {reply.transaction.deadline.ToMicroseconds()}
        assert {each.state for each in begun} == {pb.TRANSACTION_STATE_UNDECIDED}
        assert not client.transactions.BeginTransaction(pb.BeginTransactionRequest()).further

    @pytest.mark.parametrize("further", [-1, 33, 2**31 - 1])
    def test_mints_no_more_than_can_be_used_in_a_moment(self, client: Suite, further: int) -> None:
        with pytest.raises(InvalidArgument) as refused:
            client.transactions.BeginTransaction(pb.BeginTransactionRequest(timeout=Duration(), further=further))
        assert fields_at_fault(refused.value) == ["timeout", "further"]


class TestDecisions:
    def test_are_answered_alike_when_they_are_repeated(self, client: Suite) -> None:
        tx = staged(client)
        first = tx.commit()
        again = tx.commit()
        assert first.transaction_id == again.transaction_id == tx.id
        assert first.state == again.state == pb.TRANSACTION_STATE_COMMITTED
        assert list(first.branches) == [pb.TransactionBranch(participant="users", operation_count=1)]
        assert first.decide_time == again.decide_time
        rolled_back = staged(client)
        assert rolled_back.rollback().decide_time == rolled_back.rollback().decide_time

    def test_stand_once_they_are_made(self, client: Suite) -> None:
        committed = staged(client)
        committed.commit()
        with pytest.raises(FailedPrecondition) as refused:
            committed.rollback()
        assert refused.value.reason == "TRANSACTION_COMMITTED"
        rolled_back = staged(client)
        rolled_back.rollback()
        with pytest.raises(Aborted) as aborted:
            rolled_back.commit()
        assert (aborted.value.reason, aborted.value.retryable) == ("TRANSACTION_ABORTED", False)

    def test_are_not_answered_as_the_first_when_they_name_other_operations(self, client: Suite) -> None:
        tx = staged(client)
        tx.commit()
        with pytest.raises(FailedPrecondition) as refused:
            tx.commit(users=2)
        assert refused.value.reason == "COMMIT_CHANGED"
        assert refused.value.metadata == {"transaction_id": tx.id, "committed": "users: 1"}

    def test_of_an_id_from_the_future_are_refused(self, client: Suite) -> None:
        minute = 60_000
        future = UUID(int=UUID(new_id()).int + (minute << 80))
        with pytest.raises(InvalidArgument) as refused:
            client.transactions.RollbackTransaction(pb.RollbackTransactionRequest(transaction_id=str(future)))
        assert refused.value.reason == "TRANSACTION_FROM_FUTURE"

    def test_name_participants_and_counts_that_can_be(self, client: Suite) -> None:
        branches = [
            pb.TransactionBranch(participant="users", operation_count=0),
            pb.TransactionBranch(participant="weather", operation_count=1),
        ]
        with pytest.raises(InvalidArgument) as refused:
            client.transactions.CommitTransaction(pb.CommitTransactionRequest(transaction_id="x", branches=branches))
        assert fields_at_fault(refused.value) == [
            "transaction_id",
            "branches[0].operation_count",
            "branches[1].participant",
        ]
        with pytest.raises(InvalidArgument) as refused:
            client.transactions.CommitTransaction(pb.CommitTransactionRequest(transaction_id=new_id()))
        assert fields_at_fault(refused.value) == ["branches"]

    def test_name_no_more_than_can_be_looked_at(self, client: Suite) -> None:
        commit = pb.CommitTransactionRequest(transaction_id=new_id(), branches=[pb.TransactionBranch()] * 33)
        with pytest.raises(InvalidArgument) as refused:
            client.transactions.CommitTransaction(commit)
        assert fields_at_fault(refused.value) == ["branches"]
        batch = pb.BatchGetTransactionsRequest(transaction_ids=[""] * 1001)
        with pytest.raises(InvalidArgument) as refused:
            client.transactions.BatchGetTransactions(batch)
        assert fields_at_fault(refused.value) == ["transaction_ids"]

    def test_can_say_why_a_transaction_was_rolled_back(self, client: Suite) -> None:
        tx = staged(client)
        assert tx.rollback().abort_reason == "TEST"
        for malformed in ("not upper case", "X" * 101):
            request = pb.RollbackTransactionRequest(transaction_id=tx.id, abort_reason=malformed)
            with pytest.raises(InvalidArgument) as refused:
                client.transactions.RollbackTransaction(request)
            assert fields_at_fault(refused.value) == ["abort_reason"]

    def test_of_a_rollback_name_each_participant_once(self, client: Suite) -> None:
        for participants in (["users", "users"], ["users"] * 33):
            request = pb.RollbackTransactionRequest(transaction_id=new_id(), participants=participants)
            with pytest.raises(InvalidArgument) as refused:
                client.transactions.RollbackTransaction(request)
            assert fields_at_fault(refused.value) == ["participants"]


class TestLookingUp:
    def test_an_id_that_nobody_used_is_undecided(self, client: Suite) -> None:
        assert Transaction(client).state() == pb.TRANSACTION_STATE_UNDECIDED

    def test_several_come_in_the_order_of_the_request(self, client: Suite) -> None:
        committed, rolled_back, open_ = staged(client), staged(client), staged(client)
        committed.commit()
        rolled_back.rollback()
        ids = [rolled_back.id, open_.id, committed.id]
        found = client.transactions.BatchGetTransactions(pb.BatchGetTransactionsRequest(transaction_ids=ids))
        assert [(each.transaction_id, each.state) for each in found.transactions] == [
            (rolled_back.id, pb.TRANSACTION_STATE_ABORTED),
            (open_.id, pb.TRANSACTION_STATE_UNDECIDED),
            (committed.id, pb.TRANSACTION_STATE_COMMITTED),
        ]
        open_.rollback()

    @pytest.mark.parametrize(
        ("request_", "fields"),
        [
            (pb.GetTransactionRequest(), ["transaction_id"]),
            (pb.GetTransactionRequest(transaction_id="x"), ["transaction_id"]),
            (pb.GetTransactionRequest(request_id=new_id()), ["method"]),
            (pb.GetTransactionRequest(method="a/b"), ["request_id"]),
            (
                pb.GetTransactionRequest(transaction_id=new_id(), request_id="x", method="a/b"),
                ["request_id", "transaction_id"],
            ),
            (pb.GetTransactionRequest(request_id=new_id(), method="\0"), ["method"]),
            (pb.GetTransactionRequest(request_id=new_id(), method="m" * 201), ["method"]),
        ],
    )
    def test_goes_by_one_key(self, client: Suite, request_: pb.GetTransactionRequest, fields: list[str]) -> None:
        with pytest.raises(InvalidArgument) as refused:
            client.transactions.GetTransaction(request_)
        assert fields_at_fault(refused.value) == fields


class TestListing:
    def test_has_the_newest_first_page_by_page(self, client: Suite) -> None:
        mine = [staged(client) for _ in range(3)]
        for tx in mine:
            tx.rollback()
        request = pb.ListTransactionsRequest(page_size=2, state=pb.TRANSACTION_STATE_ABORTED)
        seen: list[str] = []
        while mine[0].id not in seen:
            page = client.transactions.ListTransactions(request)
            assert 0 < len(page.transactions) <= 2
            assert all(each.state == pb.TRANSACTION_STATE_ABORTED for each in page.transactions)
            seen += [each.transaction_id for each in page.transactions]
            request.page_token = page.next_page_token
        assert seen == sorted(seen, reverse=True)
        assert [id_ for id_ in seen if id_ in {tx.id for tx in mine}] == [tx.id for tx in reversed(mine)]

    def test_refuses_a_state_that_no_decision_has_and_a_token_of_another_list(self, client: Suite) -> None:
        for tx in (staged(client), staged(client)):
            tx.rollback()
        first = pb.ListTransactionsRequest(page_size=1, state=pb.TRANSACTION_STATE_ABORTED)
        token = client.transactions.ListTransactions(first).next_page_token
        with pytest.raises(InvalidArgument) as refused:
            client.transactions.ListTransactions(
                pb.ListTransactionsRequest(page_size=-1, page_token=token, state=pb.TRANSACTION_STATE_UNDECIDED)
            )
        assert fields_at_fault(refused.value) == ["page_size", "page_token", "state"]
