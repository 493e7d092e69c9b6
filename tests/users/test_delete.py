from __future__ import annotations

import grpc

from handfast.client import Suite
from handfast.users.v1.users_pb2 import (
    BatchGetUsersRequest,
    DeleteUserRequest,
    GetUserRequest,
    LookupUserRequest,
    UpdateUserRequest,
    User,
)
from tests.calls import refusal
from tests.people import create_user, new_id


def test_a_deleted_user_comes_back_once_and_is_gone(client: Suite) -> None:
    user = create_user(client, display_name="Ada")
    assert client.users.DeleteUser(DeleteUserRequest(user_id=user.user_id)).user == user
    assert refusal(client.users.GetUser, GetUserRequest(user_id=user.user_id)).reason == "USER_NOT_FOUND"
    assert refusal(client.users.LookupUser, LookupUserRequest(email=user.email)).reason == "USER_NOT_FOUND"
    batch = client.users.BatchGetUsers(BatchGetUsersRequest(user_ids=[user.user_id]))
    assert list(batch.missing_user_ids) == [user.user_id]


def test_a_user_who_is_not_there_cannot_be_deleted(client: Suite) -> None:
    deleted, never = create_user(client).user_id, new_id()
    client.users.DeleteUser(DeleteUserRequest(user_id=deleted))
    for user_id in (deleted, never):
        error = refusal(client.users.DeleteUser, DeleteUserRequest(user_id=user_id))
        assert (error.status, error.service) == (grpc.StatusCode.NOT_FOUND, "handfast.users")
        assert (error.reason, error.metadata, error.retryable) == ("USER_NOT_FOUND", {"user_id": user_id}, False)


def test_the_id_and_email_of_a_deleted_user_can_be_used_again(client: Suite) -> None:
    old = create_user(client, display_name="Ada")
    client.users.DeleteUser(DeleteUserRequest(user_id=old.user_id))
    new = create_user(client, user_id=old.user_id, email=old.email.upper())
    assert (new.display_name, new.email) == ("", old.email.upper())
    assert new.etag != old.etag


def test_a_user_is_deleted_under_the_right_etag_only(client: Suite) -> None:
    old = create_user(client)
    new = client.users.UpdateUser(UpdateUserRequest(user=User(user_id=old.user_id, locale="en"))).user
    error = refusal(client.users.DeleteUser, DeleteUserRequest(user_id=old.user_id, etag=old.etag))
    assert (error.status, error.service) == (grpc.StatusCode.ABORTED, "handfast.users")
    assert (error.reason, error.metadata) == ("USER_CHANGED", {"user_id": old.user_id})
    assert not error.retryable
    assert client.users.GetUser(GetUserRequest(user_id=old.user_id)).user == new
    assert client.users.DeleteUser(DeleteUserRequest(user_id=new.user_id, etag=new.etag)).user == new
