"""What happens in the middle of an account call: between reading and staging, between staging and the decision."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest, DeleteAccountRequest
from handfast.accounts.v1.accounts_pb2_grpc import AccountServiceStub
from handfast.client import Aborted, NotFound, Suite, transaction_metadata
from handfast.client.errors import service_error
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, Preferences, UpdatePreferencesRequest
from handfast.server.chassis.data import database as databases
from handfast.transactions.v1.transactions_pb2 import TRANSACTION_STATE_ABORTED, RollbackTransactionRequest
from handfast.users.v1.users_pb2 import DeleteUserRequest, GetUserRequest, UpdateUserRequest, User
from tests.accounts.accounts import StartAccounts, StartServer, create_account, text, update
from tests.accounts.between import Between, Metadata, between
from tests.calls import bare_channel
from tests.eventually import eventually
from tests.people import create_user, new_email, new_id
from tests.transactions.calls import Transaction


@pytest.fixture
def middle(addresses: dict[str, str]) -> Iterator[tuple[str, Between]]:
    with between(addresses["preferences"]) as found:
        yield found


def dark(client: Suite, user_id: str) -> UpdatePreferencesRequest:
    return UpdatePreferencesRequest(preferences=Preferences(user_id=user_id, values={"theme": text("dark")}))


def theme(client: Suite, user_id: str) -> str:
    request = GetPreferencesRequest(user_id=user_id)
    return client.preferences.GetPreferences(request).preferences.values["theme"].string_value


def test_a_refusal_that_says_when_to_call_again_is_no_final_answer(client: Suite) -> None:
    user_id = create_account(client).user.user_id
    older = Transaction(client)
    older.stage("users", client.users.UpdateUser, UpdateUserRequest(user=User(user_id=user_id, locale="en")))
    request = update(User(user_id=user_id, display_name="Ada"), Preferences(), request_id=new_id())
    with pytest.raises(Aborted) as refused:
        client.accounts.UpdateUserAndPreferences(request, timeout=2)
    assert (refused.value.reason, refused.value.retryable) == ("PENDING_CHANGE", True)
    older.rollback()
    assert client.accounts.UpdateUserAndPreferences(request).account.user.display_name == "Ada"


def test_a_call_goes_on_once_the_time_is_up_of_what_is_in_its_way(client: Suite) -> None:
    """As where a replica of the coordinator dies, and another gets the same call again."""
    user_id = create_account(client).user.user_id
    left = Transaction(client, timeout_seconds=2)
    left.stage("users", client.users.UpdateUser, UpdateUserRequest(user=User(user_id=user_id, locale="en")))
    request = update(User(user_id=user_id, display_name="Ada"), Preferences(), request_id=new_id())
    assert client.accounts.UpdateUserAndPreferences(request).account.user.display_name == "Ada"
    assert left.state() == TRANSACTION_STATE_ABORTED


def test_a_refusal_that_could_not_be_kept_is_not_told_as_final(
    client: Suite,
    addresses: dict[str, str],
    accounts_server_with: StartServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(databases, "PATIENCE_S", 0.1)
    taken = create_user(client)
    request = CreateAccountRequest(user=User(email=taken.email), request_id=new_id())
    server = accounts_server_with(addresses["preferences"])
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        accounts: Any = AccountServiceStub(stack.enter_context(bare_channel(server.address)))
        with contextlib.closing(sqlite3.connect(tmp_path / "transactions.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            error = service_error(accounts.CreateAccount.future(request).exception(), "")
        assert (error.service, error.retryable) == ("handfast.accounts", True), error
        client.users.DeleteUser(DeleteUserRequest(user_id=taken.user_id))
        assert accounts.CreateAccount(request).account.user.email == taken.email


def test_a_call_that_was_rolled_back_by_another_says_so_and_its_answer_is_not_kept(
    client: Suite, accounts_with: StartAccounts, middle: tuple[str, Between]
) -> None:
    address, preferences = middle
    suite = accounts_with(address)

    def roll_back(metadata: Metadata) -> None:
        preferences.after.clear()
        suite.transactions.RollbackTransaction(
            RollbackTransactionRequest(
                transaction_id=str(metadata[transaction_metadata.TRANSACTION_ID]), abort_reason="TEST"
            )
        )

    preferences.after["UpdatePreferences"] = roll_back
    request = CreateAccountRequest(user=User(email=new_email()), request_id=new_id())
    with pytest.raises(Aborted) as refused:
        suite.accounts.CreateAccount(request)
    assert (refused.value.reason, refused.value.retryable) == ("TRANSACTION_ABORTED", True)
    account = suite.accounts.CreateAccount(request).account
    assert eventually(lambda: user_or_none(client, account.user.user_id) == account.user)


def test_a_call_that_makes_way_keeps_its_age(
    client: Suite, accounts_with: StartAccounts, middle: tuple[str, Between]
) -> None:
    address, preferences = middle
    user_id = create_account(client).user.user_id
    older = Transaction(client)
    older.stage("preferences", client.preferences.UpdatePreferences, dark(client, user_id))
    attempts: list[Metadata] = []

    def see(metadata: Metadata) -> None:
        attempts.append(metadata)
        if len(attempts) == 3:
            older.rollback()

    preferences.before["UpdatePreferences"] = see
    wanted = update(User(user_id=user_id, display_name="Ada"), Preferences(values={"theme": text("system")}))
    reply = accounts_with(address).accounts.UpdateUserAndPreferences(wanted)
    ids = [str(attempt[transaction_metadata.TRANSACTION_ID]) for attempt in attempts]
    assert len(set(ids)) == len(ids) >= 3
    assert {attempt[transaction_metadata.FIRST_ATTEMPT] for attempt in attempts} == {ids[0]}
    assert reply.transaction_id == ids[-1]


def test_an_account_whose_preferences_change_during_its_deletion_stays(
    client: Suite, accounts_with: StartAccounts, middle: tuple[str, Between]
) -> None:
    address, preferences = middle
    account = create_account(client)
    user_id = account.user.user_id

    def change(_: Metadata) -> None:
        client.preferences.UpdatePreferences(dark(client, user_id))

    preferences.after["GetPreferences"] = change
    suite = accounts_with(address)
    with pytest.raises(Aborted) as refused:
        suite.accounts.DeleteAccount(DeleteAccountRequest(user_id=user_id))
    assert (refused.value.reason, refused.value.retryable) == ("ACCOUNT_CHANGED", True)
    assert client.users.GetUser(GetUserRequest(user_id=user_id)).user == account.user
    assert theme(client, user_id) == "dark"
    preferences.after.clear()
    deleted = suite.accounts.DeleteAccount(DeleteAccountRequest(user_id=user_id)).account
    assert deleted.preferences.values["theme"].string_value == "dark"
    assert eventually(lambda: user_or_none(client, user_id) is None)


def user_or_none(client: Suite, user_id: str) -> User | None:
    """The shared servers know nothing of what this test's coordinator decides, until it has told them."""
    try:
        return client.users.GetUser(GetUserRequest(user_id=user_id)).user
    except NotFound:
        return None
