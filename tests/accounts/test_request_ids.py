"""A repeat of an account call is harmless: it gets the answer of the first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest, DeleteAccountRequest
from handfast.client import AlreadyExists, InvalidArgument, NotFound, ServiceError, Suite
from handfast.preferences.v1.preferences_pb2 import Preferences
from handfast.server.chassis.data.personal_data import without_personal_data
from handfast.transactions.v1.transactions_pb2 import (
    TRANSACTION_STATE_ABORTED,
    TRANSACTION_STATE_COMMITTED,
    GetTransactionRequest,
)
from handfast.users.v1.users_pb2 import DeleteUserRequest, LookupUserRequest, UpdateUserRequest, User
from tests.accounts.accounts import create_account, get_account, text, update
from tests.calls import refusal
from tests.people import create_user, new_email, new_id

CREATE = "handfast.accounts.v1.AccountService/CreateAccount"


def assert_erased(error: ServiceError, request_id: str) -> None:
    assert (error.service, error.reason) == ("handfast.accounts", "ANSWER_ERASED")
    assert (error.metadata, error.retryable) == ({"request_id": request_id}, False)


def test_a_repeated_creation_gets_the_same_account_and_transaction(client: Suite) -> None:
    request = CreateAccountRequest(user=User(email=new_email()), request_id=new_id())
    assert client.accounts.CreateAccount(request) == client.accounts.CreateAccount(request)


def test_a_repeated_update_is_applied_once(client: Suite) -> None:
    account = create_account(client)
    user = User(user_id=account.user.user_id, etag=account.user.etag, display_name="Countess")
    request = update(user, Preferences(values={"theme": text("dark")}), request_id=new_id())
    first = client.accounts.UpdateUserAndPreferences(request)
    assert client.accounts.UpdateUserAndPreferences(request) == first
    assert get_account(client, account.user.user_id) == first.account


def test_a_repeat_gets_the_account_as_it_is_now(client: Suite) -> None:
    request = CreateAccountRequest(user=User(email=new_email()), request_id=new_id())
    first = client.accounts.CreateAccount(request)
    user = User(user_id=first.account.user.user_id, display_name="Countess")
    user = client.users.UpdateUser(UpdateUserRequest(user=user)).user
    again = client.accounts.CreateAccount(request)
    assert again.transaction_id == first.transaction_id
    assert (again.account.user, again.account.preferences) == (user, first.account.preferences)


def test_a_repeated_deletion_shows_again_what_was_deleted_but_for_what_was_personal(client: Suite) -> None:
    account = create_account(client)
    request = DeleteAccountRequest(user_id=account.user.user_id, request_id=new_id())
    assert client.accounts.DeleteAccount(request).account == account
    assert client.accounts.DeleteAccount(request).account == without_personal_data(account)


@pytest.mark.parametrize("by", ["DeleteUser", "DeleteAccount", "another of the same id"])
def test_a_repeat_after_the_user_was_deleted_says_so_and_does_nothing(client: Suite, by: str) -> None:
    create = CreateAccountRequest(user=User(email=new_email()), request_id=new_id())
    user_id = client.accounts.CreateAccount(create).account.user.user_id
    change = update(User(user_id=user_id, display_name="Countess"), Preferences(), request_id=new_id())
    client.accounts.UpdateUserAndPreferences(change)
    if by == "DeleteAccount":
        client.accounts.DeleteAccount(DeleteAccountRequest(user_id=user_id))
    else:
        client.users.DeleteUser(DeleteUserRequest(user_id=user_id))
    if by == "another of the same id":
        create_user(client, user_id=user_id)
    assert_erased(refusal(client.accounts.CreateAccount, create), create.request_id)
    assert_erased(refusal(client.accounts.UpdateUserAndPreferences, change), change.request_id)
    assert refusal(client.users.LookupUser, LookupUserRequest(email=create.user.email)).reason == "USER_NOT_FOUND"


def test_repeats_at_the_same_time_make_one_account(client: Suite) -> None:
    request = CreateAccountRequest(user=User(email=new_email()), request_id=new_id())

    def call(_: int) -> str:
        for _ in range(100):
            try:
                return client.accounts.CreateAccount(request).transaction_id
            except ServiceError as error:
                # The email is reserved while another repeat is on its way; nothing is decided about the request.
                if error.reason != "PENDING_CHANGE":
                    raise
        return "never"

    with ThreadPoolExecutor(8) as pool:
        transaction_ids = set(pool.map(call, range(8)))
    assert len(transaction_ids) == 1
    asked = GetTransactionRequest(request_id=request.request_id, method=CREATE)
    found = client.transactions.GetTransaction(asked).transaction
    assert {found.transaction_id} == transaction_ids
    assert found.state == TRANSACTION_STATE_COMMITTED


def test_a_final_failure_is_repeated_even_when_its_cause_is_gone(client: Suite) -> None:
    taken = create_user(client)
    request = CreateAccountRequest(user=User(email=taken.email), request_id=new_id())
    with pytest.raises(AlreadyExists) as first:
        client.accounts.CreateAccount(request)
    client.users.DeleteUser(DeleteUserRequest(user_id=taken.user_id))
    with pytest.raises(AlreadyExists) as again:
        client.accounts.CreateAccount(request)
    assert (again.value.service, again.value.reason) == (first.value.service, first.value.reason)
    assert again.value.request_id != first.value.request_id
    asked = GetTransactionRequest(request_id=request.request_id, method=CREATE)
    found = client.transactions.GetTransaction(asked).transaction
    assert (found.state, found.abort_reason) == (TRANSACTION_STATE_ABORTED, "EMAIL_TAKEN")


def test_a_request_id_is_not_for_another_request(client: Suite) -> None:
    request = CreateAccountRequest(user=User(email=new_email()), request_id=new_id())
    client.accounts.CreateAccount(request)
    request.user.email = new_email()
    with pytest.raises(InvalidArgument) as refused:
        client.accounts.CreateAccount(request)
    assert (refused.value.reason, refused.value.metadata) == ("REQUEST_ID_REUSED", {"request_id": request.request_id})


def test_a_request_id_that_was_never_used_names_no_transaction(client: Suite) -> None:
    with pytest.raises(NotFound) as refused:
        client.transactions.GetTransaction(GetTransactionRequest(request_id=new_id(), method=CREATE))
    assert refused.value.service == "handfast.transactions"
