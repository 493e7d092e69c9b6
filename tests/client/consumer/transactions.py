"""Changes of several services that take effect together, as a team that uses the suite writes them."""

import uuid
from typing import assert_type

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.client import NotFound, Outcome, Suite, Transaction, TransactionMisuse, connect
from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesRequest
from handfast.users.v1.users_pb2 import (
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    GetUserResponse,
    ListUsersRequest,
    UpdateUserRequest,
    UpdateUserResponse,
    User,
)
from handfast.users.v1.users_pb2_grpc import UserServiceStub


def main() -> None:
    with connect(participants={"credits": "localhost:50061"}) as suite:
        user_id = f"ada-{uuid.uuid4()}"
        with suite.transaction(timeout=10) as tx:
            created = tx.users.CreateUser(CreateUserRequest(user=User(user_id=user_id, email=f"{user_id}@example.com")))
            tx.preferences.UpdatePreferences.future(theme(user_id, "dark"))
        assert_type(tx.id, str)
        assert_type(tx.outcome, Outcome)
        print(tx.id, tx.outcome, created.user.etag)

        assert_type(suite.transact(lambda tx: rename(tx, user_id, "Ada")), str)
        misuse(suite)
        refusal(suite, user_id)
        suite.users.DeleteUser(DeleteUserRequest(user_id=user_id))


def theme(user_id: str, value: str) -> UpdatePreferencesRequest:
    return UpdatePreferencesRequest(
        preferences=Preferences(user_id=user_id, values={"theme": Value(string_value=value)})
    )


def rename(tx: Transaction, user_id: str, name: str) -> str:
    """The name before."""
    before = tx.users.GetUser(GetUserRequest(user_id=user_id))
    assert_type(before, GetUserResponse)
    request = UpdateUserRequest(
        user=User(user_id=user_id, display_name=name), update_mask=FieldMask(paths=["display_name"])
    )
    users = tx.stub(UserServiceStub, "users")
    assert_type(users, UserServiceStub)
    renaming = users.UpdateUser.future(request)
    assert_type(renaming.result(), UpdateUserResponse)
    reply, call = users.UpdateUser.with_call(request)
    assert_type(reply, UpdateUserResponse)
    assert call.code() is grpc.StatusCode.OK
    return before.user.display_name


def misuse(suite: Suite) -> None:
    assert_type(suite.stub(UserServiceStub, "users"), UserServiceStub)
    with suite.transaction() as tx:
        try:
            tx.users.ListUsers(ListUsersRequest())
        except TransactionMisuse as error:
            print(error)


def refusal(suite: Suite, user_id: str) -> None:
    """Neither of the two users is changed."""
    try:
        with suite.transaction() as tx:
            rename(tx, user_id, "Countess")
            rename(tx, "nobody", "Nobody")
    except NotFound as error:
        print(error.service, error.reason, error.metadata)


if __name__ == "__main__":
    main()
