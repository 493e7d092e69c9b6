"""Replicas side by side: what begins at one goes on at any other, and nothing is known to one alone that counts.

docs/operations.md, "Replicas", says what each keeps in memory.
"""

from __future__ import annotations

import contextlib
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest
from handfast.client import FailedPrecondition, ServiceError, Suite, connect
from handfast.preferences.v1.preferences_pb2 import (
    CreatePreferenceDefinitionRequest,
    PreferenceDefinition,
    Preferences,
    PreferenceType,
    UpdatePreferencesRequest,
)
from handfast.server.process.settings import METRICS_PORT_OFFSET
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub
from handfast.users.v1.users_pb2 import GetUserRequest, ListUsersRequest, UpdateUserRequest, User
from tests.crashes.contend import FEW, crowd
from tests.crashes.rivals import compete
from tests.databases.postgresql import PostgreSQL
from tests.eventually import eventually
from tests.people import create_user, new_email, new_id
from tests.replicas.servers import Replicas
from tests.transactions.calls import Transaction

COUNT, CLIENTS = 2, 8


@pytest.fixture(scope="module")
def replicas(server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    started = Replicas(COUNT, tmp_path_factory.mktemp("side_by_side"), server.create_databases("side_by_side_"))
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def each(replicas: Replicas) -> Iterator[tuple[Suite, Suite]]:
    """Clients, each of one replica of each server. The servers themselves call each other in turn."""
    places = [[replicas.of[name][number].address for name in replicas.of] for number in range(COUNT)]
    with connect(*places[0]) as first, connect(*places[1]) as second:
        yield first, second


def rename(user: User, name: str) -> UpdateUserRequest:
    renamed = User(user_id=user.user_id, display_name=name)
    return UpdateUserRequest(user=renamed, update_mask=FieldMask(paths=["display_name"]))


def name_of(suite: Suite, user: User, *metadata: tuple[str, str]) -> str:
    reply = suite.users.GetUser(GetUserRequest(user_id=user.user_id), metadata=metadata)
    return reply.user.display_name


def test_a_transaction_goes_on_at_whatever_replica_its_calls_reach(each: tuple[Suite, Suite]) -> None:
    first, second = each
    ada, bob = create_user(first, display_name="ada"), create_user(second, display_name="bob")
    tx = Transaction(first)
    staged = tx.stage("users", first.users.UpdateUser, rename(ada, "Ada"))
    again = second.users.UpdateUser(rename(ada, "Ada"), metadata=tx.metadata(1))
    assert again == staged
    tx.stage("users", second.users.UpdateUser, rename(bob, "Bob"))
    mine = tx.metadata(1)[:1]
    for suite in each:
        assert [name_of(suite, ada, *mine), name_of(suite, bob, *mine)] == ["Ada", "Bob"]
        assert [name_of(suite, ada), name_of(suite, bob)] == ["ada", "bob"]
    branches = [pb.TransactionBranch(participant="users", operation_count=2)]
    commit = pb.CommitTransactionRequest(transaction_id=tx.id, branches=branches)
    second.transactions.CommitTransaction(commit)
    for suite in each:
        assert [name_of(suite, ada), name_of(suite, bob)] == ["Ada", "Bob"]
    assert tx.state() == pb.TRANSACTION_STATE_COMMITTED
    first.transactions.CommitTransaction(commit)
    commit.branches[0].operation_count = 1
    with pytest.raises(FailedPrecondition):
        first.transactions.CommitTransaction(commit)


def test_what_is_locked_at_one_replica_is_locked_at_all(each: tuple[Suite, Suite]) -> None:
    first, second = each
    user = create_user(first)
    for_reading = pb.LockResourcesRequest(to_read=[f"users/{user.user_id}"])
    locked = [Transaction(first), Transaction(first)]
    for tx, suite in zip(locked, each, strict=True):
        tx.stage("users", suite.stub(LockServiceStub, "users").LockResources, for_reading)
    for tx, suite in zip(locked, reversed(each), strict=True):
        assert _refused(suite.users.UpdateUser, rename(user, "changed")).reason == "PENDING_CHANGE"
        tx.commit()
    second.users.UpdateUser(rename(user, "changed"))


def has_met_a_change(address: str) -> bool:
    host, port = address.split(":")
    with urllib.request.urlopen(f"http://{host}:{int(port) + METRICS_PORT_OFFSET}/metrics", timeout=5) as reply:
        return 'handfast_pending_changes_met_total{state="undecided"} 0.0' not in reply.read().decode()


def test_who_waits_at_one_replica_goes_on_when_the_other_has_ended_it(
    replicas: Replicas, each: tuple[Suite, Suite]
) -> None:
    first, second = each
    user = create_user(first)
    # Of two that begin at two replicas in the same millisecond, either may be the older one.
    older, younger = sorted((Transaction(first), Transaction(second)), key=lambda tx: tx.id)
    younger.stage("users", first.users.UpdateUser, rename(user, "younger"))
    waiting = second.users.UpdateUser.future(rename(user, "older"), metadata=older.metadata(1))
    assert eventually(lambda: has_met_a_change(replicas.of["users"][1].address))
    younger.commit()
    assert waiting.result().user.display_name == "older"
    older.counts["users"] = 1
    older.commit()
    assert name_of(first, user) == "older"


def test_a_repeat_is_answered_by_any_replica_as_the_first_call_was(each: tuple[Suite, Suite]) -> None:
    first, second = each
    request_id = str(uuid.uuid4())
    create = CreateAccountRequest(user=User(user_id=new_id(), email=new_email()), request_id=request_id)
    created, again = (suite.accounts.CreateAccount(create) for suite in each)
    assert created.transaction_id == again.transaction_id

    taken = CreateAccountRequest(user=User(user_id=new_id(), email=create.user.email), request_id=str(uuid.uuid4()))
    refused = [_refused(suite.accounts.CreateAccount, taken) for suite in each]
    assert refused[0].reason == refused[1].reason == "EMAIL_TAKEN"
    assert refused[0].trailing_metadata()

    update = rename(created.account.user, "once")
    update.request_id = request_id
    assert len({suite.users.UpdateUser(update).user.etag for suite in (first, second, first)}) == 1


def _refused(method: Callable[[Any], object], request: Any) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        method(request)
    return refused.value


def test_a_definition_that_one_replica_has_made_holds_at_the_other_at_once(each: tuple[Suite, Suite]) -> None:
    first, second = each
    for key, here, there in (("made_at_first", first, second), ("made_at_second", second, first)):
        user_id = new_id()
        update = UpdatePreferencesRequest(
            preferences=Preferences(user_id=user_id, values={key: Value(bool_value=True)})
        )
        assert _refused(there.preferences.UpdatePreferences, update).reason  # there is none yet
        definition = PreferenceDefinition(key=key, type=PreferenceType.PREFERENCE_TYPE_BOOLEAN)
        here.preferences.CreatePreferenceDefinition(CreatePreferenceDefinitionRequest(definition=definition))
        there.preferences.UpdatePreferences(update)


def test_a_list_goes_on_at_another_replica(each: tuple[Suite, Suite]) -> None:
    first, second = each
    for _ in range(2):
        create_user(first)
    page = first.users.ListUsers(ListUsersRequest(page_size=1))
    following = second.users.ListUsers(ListUsersRequest(page_size=1, page_token=page.next_page_token))
    assert following.users[0].user_id > page.users[0].user_id


@pytest.fixture(scope="module")
def faces(replicas: Replicas) -> Iterator[list[Suite]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(replicas.connect()) for _ in range(CLIENTS)]


def test_account_calls_that_meet_at_several_replicas_lose_nothing(faces: list[Suite]) -> None:
    outcome = crowd(faces, accounts=FEW, seconds=1)
    print(outcome)
    assert not outcome.lost
    assert not outcome.stuck
    assert outcome.updates > 0


def test_transactions_over_several_replicas_are_strictly_serializable_and_all_come_through(faces: list[Suite]) -> None:
    report = compete(faces, prefix="side-by-side", most=4)
    print(report)
    assert not report.anomalies
    assert report.committed == [4] * CLIENTS
