"""What a team that uses the suite writes; a type checker reads it as well (`mypy --strict`).

Runs against the suite at the addresses in the environment, or on this machine.
"""

import uuid
from typing import assert_type

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import (
    CreateAccountRequest,
    CreateAccountResponse,
    DeleteAccountRequest,
    GetAccountRequest,
    UpdateUserAndPreferencesRequest,
)
from handfast.client import Aborted, AlreadyExists, NotFound, Outcome, Suite, Transaction, connect
from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesRequest, UpdatePreferencesResponse
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse, UpdateUserRequest, UpdateUserResponse, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub


def main() -> None:
    with connect() as suite:
        user_id = f"ada-{uuid.uuid4()}"
        email = f"{user_id}@example.com"
        created = suite.accounts.CreateAccount(CreateAccountRequest(user=User(user_id=user_id, email=email)))
        assert_type(created, CreateAccountResponse)
        change_both_sides(suite, created.account.user)
        in_one_transaction(suite, created.account.user.user_id)
        refusals(suite, created.account.user)
        suite.accounts.DeleteAccount(DeleteAccountRequest(user_id=user_id))


def change_both_sides(suite: Suite, user: User) -> None:
    """Both sides change, or neither does."""
    dark = Value(string_value="dark")
    reply = suite.accounts.UpdateUserAndPreferences(
        UpdateUserAndPreferencesRequest(
            user=User(user_id=user.user_id, display_name="Ada"),
            user_update_mask=FieldMask(paths=["display_name"]),
            preferences=Preferences(values={"theme": dark}),
        )
    )
    assert_type(reply.transaction_id, str)
    account = suite.accounts.GetAccount(GetAccountRequest(user_id=user.user_id)).account
    assert account.user.display_name == "Ada"
    assert account.preferences.values["theme"] == dark


def in_one_transaction(suite: Suite, user_id: str) -> None:
    """Any calls take effect together, or none does."""
    light = Preferences(user_id=user_id, values={"theme": Value(string_value="light")})
    with suite.transaction() as tx:
        renamed = tx.users.UpdateUser.future(UpdateUserRequest(user=User(user_id=user_id, display_name="Countess")))
        assert_type(
            tx.preferences.UpdatePreferences(UpdatePreferencesRequest(preferences=light)), UpdatePreferencesResponse
        )
        assert_type(renamed.result(), UpdateUserResponse)
    assert_type(tx.outcome, Outcome)
    assert tx.outcome is Outcome.COMMITTED
    assert_type(suite.transact(lambda tx: rename(tx, user_id)), str)


def rename(tx: Transaction, user_id: str) -> str:
    reply = tx.stub(UserServiceStub, "users").UpdateUser(
        UpdateUserRequest(user=User(user_id=user_id, display_name="Lady Lovelace"))
    )
    assert_type(reply, UpdateUserResponse)
    return reply.user.display_name


def refusals(suite: Suite, user: User) -> None:
    """Each status code has a class, and the contract names the reasons."""
    try:
        assert_type(suite.users.GetUser(GetUserRequest(user_id="nobody")), GetUserResponse)
    except NotFound as error:
        assert_type(error.metadata, dict[str, str])
        print(error.service, error.reason, error.metadata, error.request_id)

    try:
        suite.accounts.CreateAccount(CreateAccountRequest(user=User(email=user.email)))
    except AlreadyExists as error:
        print(error.reason)

    try:
        suite.accounts.UpdateUserAndPreferences(
            UpdateUserAndPreferencesRequest(
                user=User(user_id=user.user_id, locale="pt-BR", etag=user.etag),  # changed since
                preferences=Preferences(values={"theme": Value(string_value="light")}),
            )
        )
    except Aborted as error:
        assert_type(error.retry_after, float | None)
        print(error.reason, error.retryable)


if __name__ == "__main__":
    main()
