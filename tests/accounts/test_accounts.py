"""A user and the preferences as one: what commits, commits on both sides."""

from __future__ import annotations

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from handfast.accounts.v1.accounts_pb2 import (
    CreateAccountRequest,
    DeleteAccountRequest,
    GetAccountRequest,
    UpdateUserAndPreferencesRequest,
)
from handfast.accounts.v1.accounts_pb2_grpc import AccountServiceStub
from handfast.client import NotFound, Suite
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, Preferences, UpdatePreferencesRequest
from handfast.transactions.v1.transactions_pb2 import TRANSACTION_STATE_COMMITTED, GetTransactionRequest
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from tests.accounts.accounts import create_account, get_account, text, update
from tests.calls import bare_channel
from tests.people import create_user, new_email, new_id


def test_an_account_is_created_on_both_sides(client: Suite) -> None:
    request = CreateAccountRequest(
        user=User(user_id=new_id(), email=new_email(), display_name="Ada"),
        preferences=Preferences(values={"theme": text("dark")}),
    )
    answer = client.accounts.CreateAccount(request)

    user = client.users.GetUser(GetUserRequest(user_id=request.user.user_id))
    preferences = client.preferences.GetPreferences(GetPreferencesRequest(user_id=request.user.user_id))
    assert answer.account.user == user.user
    assert answer.account.preferences == preferences.preferences
    assert user.user.display_name == "Ada"
    assert preferences.preferences.values["theme"] == text("dark")
    assert user.last_transaction_id == preferences.last_transaction_id == answer.transaction_id


def test_an_account_needs_no_preferences_and_gets_an_id_of_its_own(client: Suite) -> None:
    account = client.accounts.CreateAccount(CreateAccountRequest(user=User(email=new_email()))).account
    assert account.user.user_id
    assert account.preferences.user_id == account.user.user_id
    assert not account.preferences.values
    assert get_account(client, account.user.user_id) == account


def test_preferences_that_an_earlier_user_left_are_replaced(client: Suite) -> None:
    user_id = new_id()
    left = Preferences(user_id=user_id, values={"density": text("compact")})
    client.preferences.UpdatePreferences(UpdatePreferencesRequest(preferences=left))
    assert set(create_account(client, user_id=user_id).preferences.values) == {"theme"}


def test_an_update_changes_what_both_masks_name_and_nothing_else(client: Suite) -> None:
    before = create_account(client, display_name="Ada", locale="en")
    answer = client.accounts.UpdateUserAndPreferences(
        UpdateUserAndPreferencesRequest(
            user=User(user_id=before.user.user_id, display_name="Countess", locale="fr"),
            user_update_mask=FieldMask(paths=["display_name"]),
            preferences=Preferences(values={"theme": text("dark"), "density": text("compact")}),
            preferences_update_mask=FieldMask(paths=["values.density"]),
        )
    )
    after = get_account(client, before.user.user_id)
    assert answer.account == after
    assert (after.user.display_name, after.user.locale, after.user.email) == ("Countess", "en", before.user.email)
    assert dict(after.preferences.values) == {"theme": text("light"), "density": text("compact")}


def test_masks_may_name_all_fields_of_what_was_read(client: Suite) -> None:
    read = create_account(client, display_name="Ada")
    read.user.display_name = "Countess"
    read.preferences.values["theme"].CopyFrom(text("dark"))
    request = UpdateUserAndPreferencesRequest(
        user=read.user,
        user_update_mask=FieldMask(paths=User.DESCRIPTOR.fields_by_name),
        preferences=read.preferences,
        preferences_update_mask=FieldMask(paths=Preferences.DESCRIPTOR.fields_by_name),
    )
    after = client.accounts.UpdateUserAndPreferences(request).account
    assert (after.user.display_name, after.user.email) == ("Countess", read.user.email)
    assert after.preferences.values == read.preferences.values


def test_an_update_with_the_etags_that_were_read_succeeds(client: Suite) -> None:
    account = create_account(client)
    user = User(user_id=account.user.user_id, etag=account.user.etag, display_name="Countess")
    preferences = Preferences(etag=account.preferences.etag, values={"theme": text("dark")})
    changed = client.accounts.UpdateUserAndPreferences(update(user, preferences)).account
    assert changed.user.etag != account.user.etag
    assert changed.preferences.etag != account.preferences.etag


def test_updates_follow_each_other_without_waiting_for_what_finishes_behind_them(client: Suite) -> None:
    user_id = create_account(client).user.user_id
    for number in range(30):
        theme = ("dark", "light")[number % 2]
        user = User(user_id=user_id, display_name=f"Ada {number}")
        request = update(user, Preferences(values={"theme": text(theme)}))
        answer = client.accounts.UpdateUserAndPreferences(request).account
        assert get_account(client, user_id) == answer
        assert (answer.user.display_name, answer.preferences.values["theme"]) == (f"Ada {number}", text(theme))


def test_a_side_that_an_update_leaves_alone_keeps_its_etag(client: Suite) -> None:
    before = create_account(client, display_name="Ada")
    user = User(user_id=before.user.user_id, display_name="Countess")
    after = client.accounts.UpdateUserAndPreferences(update(user, Preferences())).account
    assert after.preferences == before.preferences
    assert after.user.etag != before.user.etag


def test_an_account_without_preferences_has_those_that_were_never_set(client: Suite) -> None:
    account = client.accounts.CreateAccount(CreateAccountRequest(user=User(email=new_email()))).account
    assert account.preferences == Preferences(user_id=account.user.user_id, etag="0")


def test_a_deleted_account_is_gone_on_both_sides_and_the_answer_shows_what_it_was(client: Suite) -> None:
    account = create_account(client, theme="dark")
    user_id = account.user.user_id
    assert client.accounts.DeleteAccount(DeleteAccountRequest(user_id=user_id)).account == account
    with pytest.raises(NotFound) as refused:
        get_account(client, user_id)
    assert (refused.value.service, refused.value.reason) == ("handfast.users", "USER_NOT_FOUND")
    assert not client.preferences.GetPreferences(GetPreferencesRequest(user_id=user_id)).preferences.values
    assert create_account(client, user_id=user_id, email=account.user.email).user.email == account.user.email


def test_an_account_of_a_user_made_alone_can_be_read_and_updated(client: Suite) -> None:
    user = create_user(client, display_name="Ada")
    account = get_account(client, user.user_id)
    assert account.user == user
    assert (account.preferences.user_id, account.preferences.etag) == (user.user_id, "0")
    changed = User(user_id=user.user_id, display_name="Countess")
    client.accounts.UpdateUserAndPreferences(update(changed, Preferences(values={"theme": text("dark")})))
    client.users.UpdateUser(UpdateUserRequest(user=User(user_id=user.user_id, display_name="Ada")))
    account = get_account(client, user.user_id)
    assert (account.user.display_name, account.preferences.values["theme"]) == ("Ada", text("dark"))


def test_defaults_come_where_they_are_asked_for(client: Suite) -> None:
    user_id = create_account(client, theme="dark").user.user_id
    assert not get_account(client, user_id).preferences.defaults
    request = GetAccountRequest(user_id=user_id, include_defaults=True)
    defaults = client.accounts.GetAccount(request).account.preferences.defaults
    assert defaults["density"] == text("comfortable")
    assert "theme" not in defaults


def test_the_transaction_is_named_by_the_reply_and_by_the_initial_metadata(
    client: Suite, addresses: dict[str, str]
) -> None:
    """By the latter where the caller could not make the call again: no client does by itself once there is some."""
    request = CreateAccountRequest(user=User(email=new_email()), request_id=new_id())
    with bare_channel(addresses["accounts"]) as channel:
        create = AccountServiceStub(channel).CreateAccount
        first, call = create.with_call(request)
        again, repeated = create.with_call(request)
        assert first == again
        assert not call.initial_metadata()
        assert not repeated.initial_metadata()
        answer, call = create.with_call(CreateAccountRequest(user=User(email=new_email())))
    assert dict(call.initial_metadata())["handfast-transaction-id"] == answer.transaction_id
    found = client.transactions.GetTransaction(GetTransactionRequest(transaction_id=answer.transaction_id))
    assert found.transaction.state == TRANSACTION_STATE_COMMITTED
    counts = {branch.participant: branch.operation_count for branch in found.transaction.branches}
    assert counts == {"users": 1, "preferences": 1}
