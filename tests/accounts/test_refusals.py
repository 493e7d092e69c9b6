"""What one side refuses leaves both as they were, and reaches the caller as that side's error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from handfast.accounts.v1.accounts_pb2 import (
    Account,
    CreateAccountRequest,
    DeleteAccountRequest,
    UpdateUserAndPreferencesRequest,
)
from handfast.client import Aborted, AlreadyExists, InvalidArgument, NotFound, ServiceError, Suite
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, Preferences
from handfast.users.v1.users_pb2 import GetUserRequest, User
from tests.accounts.accounts import create_account, get_account, text, update
from tests.people import create_user, new_email, new_id

Build = Callable[[Suite, Account], UpdateUserAndPreferencesRequest]


@dataclass(frozen=True)
class Refusal:
    """An update of an account that one side refuses, and the error that the caller gets."""

    name: str
    build: Build
    error: type[ServiceError]
    service: str
    reason: str
    fields: tuple[str, ...] = ()


def stale_user(client: Suite, account: Account) -> UpdateUserAndPreferencesRequest:
    user = User(user_id=account.user.user_id, etag="stale", display_name="X")
    return update(user, Preferences(values={"theme": text("dark")}))


def stale_preferences(client: Suite, account: Account) -> UpdateUserAndPreferencesRequest:
    user = User(user_id=account.user.user_id, display_name="X")
    return update(user, Preferences(etag="stale", values={"theme": text("dark")}))


def taken_email(client: Suite, account: Account) -> UpdateUserAndPreferencesRequest:
    user = User(user_id=account.user.user_id, email=create_user(client).email)
    return update(user, Preferences(values={"theme": text("dark")}))


def unknown_preference(client: Suite, account: Account) -> UpdateUserAndPreferencesRequest:
    user = User(user_id=account.user.user_id, display_name="X")
    return update(user, Preferences(values={"no_such_key": text("dark")}))


def value_not_allowed(client: Suite, account: Account) -> UpdateUserAndPreferencesRequest:
    user = User(user_id=account.user.user_id, display_name="X")
    return update(user, Preferences(values={"theme": text("plaid")}))


def malformed_email(client: Suite, account: Account) -> UpdateUserAndPreferencesRequest:
    user = User(user_id=account.user.user_id, email="nobody")
    return update(user, Preferences(values={"theme": text("dark")}))


def unknown_user_field(client: Suite, account: Account) -> UpdateUserAndPreferencesRequest:
    request = update(User(user_id=account.user.user_id), Preferences(values={"theme": text("dark")}))
    request.user_update_mask.CopyFrom(FieldMask(paths=["shoe_size"]))
    return request


def faults_on_both_sides(client: Suite, account: Account) -> UpdateUserAndPreferencesRequest:
    request = update(User(user_id=account.user.user_id, email="nobody"), Preferences(values={"no_such_key": text("")}))
    request.user_update_mask.CopyFrom(FieldMask(paths=["email", "shoe_size"]))
    request.preferences_update_mask.CopyFrom(FieldMask(paths=["values.no_such_key", "shoe_size"]))
    return request


def stale_on_both_sides(client: Suite, account: Account) -> UpdateUserAndPreferencesRequest:
    user = User(user_id=account.user.user_id, etag="stale", display_name="X")
    return update(user, Preferences(etag="stale", values={"theme": text("dark")}))


def faults_everywhere(client: Suite, account: Account) -> UpdateUserAndPreferencesRequest:
    user = User(user_id="Not An Id", email="nobody")
    return update(user, Preferences(user_id="another", values={"theme": text("plaid")}), request_id="not a uuid")


def two_users(client: Suite, account: Account) -> UpdateUserAndPreferencesRequest:
    user = User(user_id=account.user.user_id, display_name="X")
    return update(user, Preferences(user_id=new_id(), values={"theme": text("dark")}))


USERS, PREFERENCES = "handfast.users", "handfast.preferences"

REFUSALS = [
    Refusal("stale user etag", stale_user, Aborted, USERS, "USER_CHANGED"),
    Refusal("stale preferences etag", stale_preferences, Aborted, PREFERENCES, "PREFERENCES_CHANGED"),
    Refusal("email taken", taken_email, AlreadyExists, USERS, "EMAIL_TAKEN"),
    Refusal(
        "unknown preference",
        unknown_preference,
        InvalidArgument,
        PREFERENCES,
        "INVALID_FIELDS",
        ("preferences.values.no_such_key",),
    ),
    Refusal(
        "value not allowed",
        value_not_allowed,
        InvalidArgument,
        PREFERENCES,
        "INVALID_FIELDS",
        ("preferences.values.theme",),
    ),
    Refusal("malformed email", malformed_email, InvalidArgument, USERS, "INVALID_FIELDS", ("user.email",)),
    Refusal("unknown field", unknown_user_field, InvalidArgument, USERS, "INVALID_FIELDS", ("user_update_mask",)),
    Refusal(
        "faults on both sides are told together",
        faults_on_both_sides,
        InvalidArgument,
        USERS,
        "INVALID_FIELDS",
        ("user_update_mask", "user.email", "preferences_update_mask", "preferences.values.no_such_key"),
    ),
    Refusal("of two refusals the user's comes first", stale_on_both_sides, Aborted, USERS, "USER_CHANGED"),
    Refusal(
        "faults of the whole and of both sides are told together",
        faults_everywhere,
        InvalidArgument,
        "handfast.accounts",
        "INVALID_FIELDS",
        ("user.user_id", "user.email", "preferences.user_id", "preferences.values.theme", "request_id"),
    ),
    Refusal(
        "two different users",
        two_users,
        InvalidArgument,
        "handfast.accounts",
        "INVALID_FIELDS",
        ("preferences.user_id",),
    ),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_refused_update_changes_neither_side(client: Suite, refusal: Refusal) -> None:
    before = create_account(client, display_name="Ada")
    request = refusal.build(client, before)
    with pytest.raises(refusal.error) as refused:
        client.accounts.UpdateUserAndPreferences(request)
    assert (refused.value.service, refused.value.reason) == (refusal.service, refusal.reason)
    assert {violation.field for violation in refused.value.violations} == set(refusal.fields)
    assert not refused.value.retryable
    assert get_account(client, before.user.user_id) == before


def test_of_more_faults_than_an_error_can_carry_many_are_told_and_the_rest_counted(client: Suite) -> None:
    account = create_account(client)
    user = User(user_id=account.user.user_id, labels={f"BAD {number:03}": "" for number in range(64)})
    values = {f"unknown_{number:03}": text("") for number in range(200)}
    with pytest.raises(InvalidArgument) as refused:
        client.accounts.UpdateUserAndPreferences(update(user, Preferences(values=values)))
    assert (refused.value.service, refused.value.reason) == (USERS, "INVALID_FIELDS")
    *told, rest = refused.value.violations
    assert len(told) > 10
    assert rest.description.endswith("more are not listed")


def test_after_a_refusal_both_sides_can_be_written_at_once(client: Suite) -> None:
    account = create_account(client)
    with pytest.raises(InvalidArgument):
        client.accounts.UpdateUserAndPreferences(unknown_preference(client, account))
    with pytest.raises(Aborted):
        client.accounts.UpdateUserAndPreferences(stale_user(client, account))
    user = User(user_id=account.user.user_id, display_name="Countess")
    changed = client.accounts.UpdateUserAndPreferences(update(user, Preferences(values={"theme": text("dark")})))
    assert changed.account.user.display_name == "Countess"


def test_an_update_of_a_missing_user_leaves_no_preferences(client: Suite) -> None:
    user = User(user_id=new_id(), display_name="Nobody")
    with pytest.raises(NotFound) as refused:
        client.accounts.UpdateUserAndPreferences(update(user, Preferences(values={"theme": text("dark")})))
    assert (refused.value.service, refused.value.reason) == (USERS, "USER_NOT_FOUND")
    left = client.preferences.GetPreferences(GetPreferencesRequest(user_id=user.user_id)).preferences
    assert left.etag == "0"


def test_an_account_whose_preferences_are_refused_leaves_no_user_and_its_email_free(client: Suite) -> None:
    user = User(user_id=new_id(), email=new_email())
    wrong = Preferences(values={"no_such_key": text("")})
    with pytest.raises(InvalidArgument):
        client.accounts.CreateAccount(CreateAccountRequest(user=user, preferences=wrong))
    with pytest.raises(NotFound):
        client.users.GetUser(GetUserRequest(user_id=user.user_id))
    assert client.accounts.CreateAccount(CreateAccountRequest(user=user)).account.user.email == user.email


@pytest.mark.parametrize(
    ("field", "service", "reason"),
    [("user_etag", USERS, "USER_CHANGED"), ("preferences_etag", PREFERENCES, "PREFERENCES_CHANGED")],
)
def test_a_deletion_with_a_stale_etag_deletes_nothing(client: Suite, field: str, service: str, reason: str) -> None:
    account = create_account(client)
    request = DeleteAccountRequest(user_id=account.user.user_id)
    setattr(request, field, "stale")
    with pytest.raises(Aborted) as refused:
        client.accounts.DeleteAccount(request)
    assert (refused.value.service, refused.value.reason) == (service, reason)
    assert get_account(client, account.user.user_id) == account


def test_a_deletion_of_nobody_is_not_found(client: Suite) -> None:
    with pytest.raises(NotFound) as refused:
        client.accounts.DeleteAccount(DeleteAccountRequest(user_id=new_id()))
    assert refused.value.service == USERS
