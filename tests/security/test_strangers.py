"""Strangers try what they can with the id of a transaction that they were told with PENDING_CHANGE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from handfast.accounts.v1 import accounts_pb2
from handfast.client import Suite, transaction_metadata
from handfast.client.errors import Aborted, AlreadyExists, NotFound, PermissionDenied, ServiceError, service_error
from handfast.client.propagation import CALLER_KEY
from handfast.server.accounts import server as accounts
from handfast.server.chassis.clock import now
from handfast.server.chassis.ids import new_id
from handfast.server.chassis.security.callers import on_behalf_of
from handfast.server.cli.ports import free_first_port
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.transactions import wire
from handfast.server.users import server as users
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import (
    LockServiceStub,
    ParticipantServiceStub,
    TransactionServiceStub,
)
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.people import new_email
from tests.security.conftest import Lines
from tests.security.enforced import ISSUER, SUITE, Metadata, as_caller, digest, suite

ADA, EVE = as_caller("ada"), as_caller("eve")
OPERATOR = as_caller("olga", "transactions.operate")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with suite(tmp_path_factory.mktemp("strangers")) as (client, _):
        yield client


class Victim:
    """A transaction of ada's that changes a user, whom eve has tried to write, too."""

    def __init__(self, client: Suite) -> None:
        self.client = client
        self.user = User(user_id=new_id(), email=new_email())
        client.users.CreateUser(CreateUserRequest(user=self.user), metadata=ADA)
        begun = client.transactions.BeginTransaction(pb.BeginTransactionRequest(), metadata=ADA).transaction
        self.id, self.deadline_us = begun.transaction_id, begun.deadline.ToMicroseconds()
        self.update("ada", 1, ADA)
        with pytest.raises(Aborted) as met:
            client.users.UpdateUser(self.change("eve"), metadata=EVE)
        assert met.value.metadata["transaction_id"] == self.id

    def change(self, name: str) -> UpdateUserRequest:
        request = UpdateUserRequest(user=User(user_id=self.user.user_id, display_name=name))
        request.update_mask.paths.append("display_name")
        return request

    def metadata(self, number: int) -> Metadata:
        return wire.stage_metadata(self.id, number, self.deadline_us)

    def update(self, name: str, number: int, caller: Metadata) -> object:
        return self.client.users.UpdateUser(self.change(name), metadata=(*self.metadata(number), *caller))

    def commit(self, caller: Metadata, participant: str = "users") -> pb.TransactionState.ValueType:
        branches = [pb.TransactionBranch(participant=participant, operation_count=1)]
        request = pb.CommitTransactionRequest(transaction_id=self.id, branches=branches)
        return self.client.transactions.CommitTransaction(request, metadata=caller).transaction.state

    def roll_back(self, caller: Metadata) -> pb.TransactionState.ValueType:
        request = pb.RollbackTransactionRequest(transaction_id=self.id)
        return self.client.transactions.RollbackTransaction(request, metadata=caller).transaction.state

    def get(self, caller: Metadata) -> pb.TransactionState.ValueType:
        request = pb.GetTransactionRequest(transaction_id=self.id)
        return self.client.transactions.GetTransaction(request, metadata=caller).transaction.state

    def batch_get(self, caller: Metadata) -> object:
        request = pb.BatchGetTransactionsRequest(transaction_ids=[self.id])
        return self.client.transactions.BatchGetTransactions(request, metadata=caller)

    def read(self, caller: Metadata) -> str:
        metadata = ((transaction_metadata.TRANSACTION_ID, self.id), *caller)
        request = GetUserRequest(user_id=self.user.user_id)
        return self.client.users.GetUser(request, metadata=metadata).user.display_name

    def lock_reads(self, caller: Metadata) -> object:
        reads = [pb.Read(resource=f"users/{self.user.user_id}", revision="-")]
        locks = self.client.stub(LockServiceStub, "users")
        return locks.LockReads(pb.LockReadsRequest(reads=reads), metadata=(*self.metadata(2), *caller))

    def lock_resources(self, caller: Metadata) -> object:
        locks = self.client.stub(LockServiceStub, "users")
        request = pb.LockResourcesRequest(to_change=[f"users/{new_id()}"])
        return locks.LockResources(request, metadata=(*self.metadata(2), *caller))

    def lock_preferences(self, caller: Metadata) -> object:
        """The first operation at a second participant."""
        locks = self.client.stub(LockServiceStub, "preferences")
        request = pb.LockResourcesRequest(to_change=[f"preferences/{self.user.user_id}"])
        return locks.LockResources(request, metadata=(*self.metadata(1), *caller))

    def branch(self, caller: Metadata, participant: str = "users") -> pb.Branch:
        stub = self.client.stub(ParticipantServiceStub, participant)
        return stub.QueryBranch(pb.QueryBranchRequest(transaction_id=self.id), metadata=caller).branch

    def finish(self, caller: Metadata) -> object:
        decision = pb.Decision(transaction_id=self.id, state=pb.TRANSACTION_STATE_COMMITTED, operation_count=1)
        request = pb.FinishTransactionsRequest(decisions=[decision])
        return self.client.stub(ParticipantServiceStub, "users").FinishTransactions(request, metadata=caller)

    def close(self, caller: Metadata) -> object:
        request = pb.CloseBranchRequest(transaction_id=self.id)
        return self.client.stub(ParticipantServiceStub, "users").CloseBranch(request, metadata=caller)

    def shown(self) -> str:
        return self.client.users.GetUser(GetUserRequest(user_id=self.user.user_id), metadata=EVE).user.display_name

    def assert_intact(self) -> None:
        """Nothing has become of it, and its owner can still commit it."""
        assert self.get(ADA) == pb.TRANSACTION_STATE_UNDECIDED
        assert (self.branch(SUITE).state, self.branch(SUITE).operation_count) == (pb.BRANCH_STATE_OPEN, 1)
        assert self.shown() == ""
        assert self.commit(ADA) == pb.TRANSACTION_STATE_COMMITTED
        assert self.shown() == "ada"


@pytest.fixture
def victim(client: Suite) -> Victim:
    return Victim(client)


ATTACKS: dict[str, Callable[[Victim], object]] = {
    "stages the next operation": lambda victim: victim.update("eve", 2, EVE),
    "repeats the last operation": lambda victim: victim.update("ada", 1, EVE),
    "reads": lambda victim: victim.read(EVE),
    "locks what was read": lambda victim: victim.lock_reads(EVE),
    "locks before reading": lambda victim: victim.lock_resources(EVE),
    "commits": lambda victim: victim.commit(EVE),
    "rolls back": lambda victim: victim.roll_back(EVE),
    "asks for it": lambda victim: victim.get(EVE),
    "asks for it among others": lambda victim: victim.batch_get(EVE),
    "names the owner as caller and commits": lambda victim: victim.commit((*EVE, (CALLER_KEY, digest("ada")))),
    "names the owner as caller and stages": lambda victim: victim.update("x", 2, (*EVE, (CALLER_KEY, digest("ada")))),
    "stages as a service that calls for the owner": lambda victim: victim.update(
        "x", 2, (*SUITE, (CALLER_KEY, digest("ada")))
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_stranger_is_told_that_the_transaction_is_anothers(victim: Victim, attack: str) -> None:
    with pytest.raises(PermissionDenied) as refused:
        ATTACKS[attack](victim)
    assert (refused.value.reason, refused.value.metadata) == ("NOT_OWNER", {"transaction_id": victim.id})
    victim.assert_intact()


@pytest.mark.parametrize("name", ["finish", "close", "branch"])
def test_participants_hear_of_decisions_from_the_coordinator_only(victim: Victim, name: str) -> None:
    for caller in (EVE, ADA):
        with pytest.raises(PermissionDenied) as refused:
            getattr(victim, name)(caller)
        assert refused.value.reason == "SCOPE_MISSING"
    victim.assert_intact()


def test_that_it_is_committed_is_not_believed_a_stranger_who_stages(victim: Victim, client: Suite) -> None:
    begun = client.transactions.BeginTransaction(pb.BeginTransactionRequest(), metadata=EVE).transaction
    own = wire.stage_metadata(begun.transaction_id, 1, begun.deadline.ToMicroseconds())
    follows = (transaction_metadata.FOLLOWS, victim.id)
    with pytest.raises(Aborted) as refused:
        client.users.UpdateUser(victim.change("eve"), metadata=(*own, follows, *EVE))
    assert refused.value.reason == "PENDING_CHANGE"
    victim.assert_intact()


def test_the_owner_reads_what_is_staged_and_asks(victim: Victim) -> None:
    assert victim.read(ADA) == "ada"
    assert victim.get(ADA) == pb.TRANSACTION_STATE_UNDECIDED
    assert victim.branch(SUITE).owner == digest("ada")


def test_an_operator_asks_and_rolls_back_but_does_not_commit(victim: Victim) -> None:
    with pytest.raises(PermissionDenied):
        victim.commit(OPERATOR)
    assert victim.get(OPERATOR) == pb.TRANSACTION_STATE_UNDECIDED
    assert victim.roll_back(OPERATOR) == pb.TRANSACTION_STATE_ABORTED


SQUATTERS = {
    "a stranger": EVE,
    "a stranger who names the owner as caller": (*EVE, (CALLER_KEY, digest("ada"))),
    "a service that calls for the owner": (*SUITE, (CALLER_KEY, digest("ada"))),
}


@pytest.mark.parametrize("squatter", SQUATTERS)
def test_a_stranger_does_not_stage_where_the_owner_has_staged_nothing_yet(victim: Victim, squatter: str) -> None:
    with pytest.raises(PermissionDenied) as refused:
        victim.lock_preferences(SQUATTERS[squatter])
    assert (refused.value.reason, refused.value.metadata) == ("NOT_OWNER", {"transaction_id": victim.id})
    victim.lock_preferences(ADA)  # the owner comes second, and goes on
    branches = [pb.TransactionBranch(participant=name, operation_count=1) for name in ("users", "preferences")]
    request = pb.CommitTransactionRequest(transaction_id=victim.id, branches=branches)
    committed = victim.client.transactions.CommitTransaction(request, metadata=ADA).transaction
    assert committed.state == pb.TRANSACTION_STATE_COMMITTED
    assert victim.shown() == "ada"


def test_nobody_counts_as_old_as_anothers_transaction(victim: Victim, client: Suite) -> None:
    begun = client.transactions.BeginTransaction(pb.BeginTransactionRequest(), metadata=EVE).transaction
    again = client.transactions.BeginTransaction(pb.BeginTransactionRequest(), metadata=EVE).transaction

    def stage(number: int, first_attempt: str) -> object:
        deadline_us = again.deadline.ToMicroseconds()
        metadata = wire.stage_metadata(again.transaction_id, number, deadline_us, first_attempt)
        user = User(user_id=new_id(), email=new_email())
        return client.users.CreateUser(CreateUserRequest(user=user), metadata=(*metadata, *EVE))

    for number in (1, 2):
        with pytest.raises(PermissionDenied) as refused:
            stage(number, victim.id)
        assert (refused.value.reason, refused.value.metadata) == ("NOT_OWNER", {"transaction_id": victim.id})
        stage(number, begun.transaction_id)
    victim.assert_intact()


def test_participants_that_observe_let_a_stranger_pass_and_say_so_but_what_is_staged_so_is_not_committed(
    tmp_path: Path, lines: Lines
) -> None:
    with suite(tmp_path, "observe") as (client, servers):
        victim = Victim(client)

        def counted(server: str, method: str, **labels: str) -> float:
            """How often the server would have refused the method, as the transaction is another's."""
            labels |= {"grpc_method": method, "reason": "NOT_OWNER", "enforced": "false"}
            registry = servers[server].metrics.registry
            return registry.get_sample_value("handfast_calls_refused_total", labels) or 0

        of_locks = {"grpc_service": "handfast.transactions.v1.LockService"}
        victim.lock_preferences((*EVE, ("x-request-id", "squats")))
        assert lines.of("squats")["would_refuse"] == "NOT_OWNER"
        assert counted("preferences", "LockResources", **of_locks) == 1
        victim.lock_preferences((*ADA, ("x-request-id", "comes-second")))
        assert lines.of("comes-second")["would_refuse"] == "NOT_OWNER"
        assert counted("preferences", "LockResources", **of_locks) == 2
        assert victim.read((*EVE, ("x-request-id", "reads"))) == "ada"
        assert counted("users", "GetUser", grpc_service="handfast.users.v1.UserService") == 1

        with pytest.raises(PermissionDenied) as refused:
            victim.commit(ADA, "preferences")
        assert refused.value.reason == "NOT_OWNER"
        victim.assert_intact()


def test_while_the_coordinator_is_away_no_transaction_is_staged_as_nobody_knows_whose_it_is(tmp_path: Path) -> None:
    settings: dict[str, Any] = ISSUER.settings(tmp_path) | {"accounts_address": f"127.0.0.1:{free_first_port()}"}
    url = sqlite_url(tmp_path / "users.sqlite3")
    server = users.build(SuiteSettings(name="users", listen="127.0.0.1:0", database_url=url, migrate=True, **settings))
    server.start()
    try:
        with grpc.insecure_channel(server.address) as to_users:  # which repeats nothing
            request = CreateUserRequest(user=User(user_id=new_id(), email=new_email()))
            stage = wire.stage_metadata(new_id(), 1, now() + 10**7)
            with pytest.raises(grpc.RpcError) as refused:
                UserServiceStub(to_users).CreateUser(request, metadata=(*stage, *ADA))
            error = service_error(refused.value, "")
            assert (error.reason, error.retryable) == ("COORDINATOR_UNAVAILABLE", True)
            UserServiceStub(to_users).CreateUser(request, metadata=ADA)  # what is in no transaction is as ever
    finally:
        server.stop()


def test_a_caller_whom_a_stranger_names_does_not_count(client: Suite) -> None:
    named = (CALLER_KEY, digest("ada"))
    begun = client.transactions.BeginTransaction(pb.BeginTransactionRequest(), metadata=(named, *EVE)).transaction
    stage = wire.stage_metadata(begun.transaction_id, 1, begun.deadline.ToMicroseconds())
    user = User(user_id=new_id(), email=new_email())
    client.users.CreateUser(CreateUserRequest(user=user), metadata=(*stage, named, *EVE))
    query = pb.QueryBranchRequest(transaction_id=begun.transaction_id)
    branch = client.stub(ParticipantServiceStub, "users").QueryBranch(query, metadata=SUITE).branch
    assert branch.owner == digest("eve")


def test_nobody_commits_what_was_never_staged_however_many_are_at_it(client: Suite) -> None:
    request = pb.BeginTransactionRequest(further=32)
    begun = client.transactions.BeginTransaction(request, metadata=EVE)
    ids = [each.transaction_id for each in (begun.transaction, *begun.further)]
    branches = [pb.TransactionBranch(participant=name, operation_count=1) for name in ("users", "preferences")]

    def commit(transaction_id: str) -> str:
        request = pb.CommitTransactionRequest(transaction_id=transaction_id, branches=branches)
        try:
            return pb.TransactionState.Name(
                client.transactions.CommitTransaction(request, metadata=EVE).transaction.state
            )
        except ServiceError as error:
            return error.reason

    with ThreadPoolExecutor(16) as threads:
        answers = set(threads.map(commit, ids))
    # On a busy machine, a participant may not answer in time.
    assert answers <= {"OPERATIONS_MISSING", "PEER_UNAVAILABLE"}
    found = client.transactions.BatchGetTransactions(pb.BatchGetTransactionsRequest(transaction_ids=ids), metadata=EVE)
    assert {each.state for each in found.transactions} == {pb.TRANSACTION_STATE_UNDECIDED}


def test_nobodys_word_is_taken_for_what_a_participant_that_is_away_holds(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_first_port()}"
    settings: dict[str, Any] = ISSUER.settings(tmp_path) | {"users_address": nobody, "preferences_address": nobody}
    url = sqlite_url(tmp_path / "accounts.sqlite3")
    server = accounts.build(
        SuiteSettings(name="accounts", listen="127.0.0.1:0", database_url=url, migrate=True, **settings)
    )
    server.start()
    try:
        with grpc.insecure_channel(server.address) as to_coordinator:  # which repeats nothing
            transactions = TransactionServiceStub(to_coordinator)
            begun = transactions.BeginTransaction(pb.BeginTransactionRequest(), metadata=EVE).transaction
            branches = [pb.TransactionBranch(participant="users", operation_count=1)]
            commit = pb.CommitTransactionRequest(transaction_id=begun.transaction_id, branches=branches)
            with pytest.raises(grpc.RpcError) as refused:
                transactions.CommitTransaction(commit, metadata=EVE)
            error = service_error(refused.value, "")
            assert (error.reason, error.retryable) == ("PEER_UNAVAILABLE", True)
            get = pb.GetTransactionRequest(transaction_id=begun.transaction_id)
            found = transactions.GetTransaction(get, metadata=EVE).transaction
            assert found.state == pb.TRANSACTION_STATE_UNDECIDED
    finally:
        server.stop()


UNFOUNDED: dict[str, Callable[[Victim, Any], object]] = {
    "commit": lambda victim, them: them.CommitTransaction(
        pb.CommitTransactionRequest(transaction_id=victim.id), metadata=EVE
    ),
    "roll back": lambda victim, them: them.RollbackTransaction(
        pb.RollbackTransactionRequest(transaction_id=victim.id, abort_reason="no reason"), metadata=EVE
    ),
    "get": lambda victim, them: them.GetTransaction(
        pb.GetTransactionRequest(transaction_id=victim.id, request_id="x", method="y"), metadata=EVE
    ),
    "get several": lambda victim, them: them.BatchGetTransactions(
        pb.BatchGetTransactionsRequest(transaction_ids=[victim.id, "x"]), metadata=EVE
    ),
}


@pytest.mark.parametrize("method", UNFOUNDED)
def test_a_stranger_is_not_told_what_else_is_wrong_with_a_request(victim: Victim, method: str) -> None:
    with pytest.raises(ServiceError) as refused:
        UNFOUNDED[method](victim, victim.client.transactions)
    assert refused.value.reason == "NOT_OWNER"


def test_an_id_that_a_caller_makes_up_belongs_to_nobody(client: Suite) -> None:
    for caller in (ADA, EVE):
        with pytest.raises(PermissionDenied) as refused:
            client.transactions.GetTransaction(pb.GetTransactionRequest(transaction_id=new_id()), metadata=caller)
        assert refused.value.reason == "NOT_OWNER"


def test_a_request_id_is_answered_to_its_caller_only(client: Suite) -> None:
    request = CreateUserRequest(user=User(user_id=new_id(), email=new_email()), request_id=new_id())
    created = client.users.CreateUser(request, metadata=ADA)
    assert client.users.CreateUser(request, metadata=ADA) == created
    with pytest.raises(AlreadyExists):
        client.users.CreateUser(request, metadata=EVE)


@pytest.fixture(scope="module")
def request_id() -> str:
    return new_id()


@pytest.fixture(scope="module")
def transaction_id(client: Suite, request_id: str) -> str:
    """Of an account call of ada's."""
    user = User(user_id=new_id(), email=new_email())
    request = accounts_pb2.CreateAccountRequest(user=user, request_id=request_id)
    return client.accounts.CreateAccount(request, metadata=ADA).transaction_id


class TestAnAccountCall:
    def test_is_told_of_by_its_id_to_its_caller_only(self, client: Suite, transaction_id: str) -> None:
        request = pb.GetTransactionRequest(transaction_id=transaction_id)
        found = client.transactions.GetTransaction(request, metadata=ADA).transaction
        assert found.state == pb.TRANSACTION_STATE_COMMITTED
        with pytest.raises(PermissionDenied):
            client.transactions.GetTransaction(request, metadata=EVE)

    def test_is_told_of_by_its_request_id_to_its_caller_only(
        self, client: Suite, transaction_id: str, request_id: str
    ) -> None:
        method = "handfast.accounts.v1.AccountService/CreateAccount"
        request = pb.GetTransactionRequest(request_id=request_id, method=method)
        found = client.transactions.GetTransaction(request, metadata=ADA).transaction
        assert found.transaction_id == transaction_id
        with pytest.raises(NotFound):
            client.transactions.GetTransaction(request, metadata=EVE)

    def test_is_neither_committed_nor_rolled_back_by_its_caller(self, client: Suite, transaction_id: str) -> None:
        branches = [pb.TransactionBranch(participant="users", operation_count=1)]
        commit = pb.CommitTransactionRequest(transaction_id=transaction_id, branches=branches)
        for ending in (
            lambda: client.transactions.CommitTransaction(commit, metadata=ADA),
            lambda: client.transactions.RollbackTransaction(
                pb.RollbackTransactionRequest(transaction_id=transaction_id), metadata=ADA
            ),
        ):
            with pytest.raises(ServiceError) as refused:
                ending()
            assert refused.value.reason == "NOT_OWNER"

    def test_is_staged_in_the_name_of_both(self, client: Suite, transaction_id: str) -> None:
        query = pb.QueryBranchRequest(transaction_id=transaction_id)
        branch = client.stub(ParticipantServiceStub, "users").QueryBranch(query, metadata=SUITE).branch
        assert branch.owner == on_behalf_of(digest("ada"), digest("suite"))
