"""Of several writes at the same time that exclude each other, one wins."""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask

from handfast.client import Suite
from handfast.users.v1.users_pb2 import (
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    LookupUserRequest,
    UpdateUserRequest,
    User,
)
from tests.calls import all_at_once
from tests.people import create_user, new_email, new_id

THREADS = 16


def test_one_of_16_creates_with_the_same_email_wins(client: Suite) -> None:
    email = new_email()
    requests = [CreateUserRequest(user=User(email=email)) for _ in range(THREADS)]
    replies, errors = all_at_once(client.users.CreateUser, requests)
    assert [error.reason for error in errors] == ["EMAIL_TAKEN"] * (THREADS - 1)
    assert client.users.LookupUser(LookupUserRequest(email=email)).user == replies[0].user


def test_one_of_16_creates_with_the_same_id_wins(client: Suite) -> None:
    user_id = new_id()
    requests = [CreateUserRequest(user=User(user_id=user_id, email=new_email())) for _ in range(THREADS)]
    replies, errors = all_at_once(client.users.CreateUser, requests)
    assert [error.reason for error in errors] == ["USER_ALREADY_EXISTS"] * (THREADS - 1)
    assert client.users.GetUser(GetUserRequest(user_id=user_id)).user == replies[0].user


def test_one_of_16_users_gets_an_email_that_all_want(client: Suite) -> None:
    email = new_email()
    changes = [UpdateUserRequest(user=User(user_id=create_user(client).user_id, email=email)) for _ in range(THREADS)]
    replies, errors = all_at_once(client.users.UpdateUser, changes)
    assert [error.reason for error in errors] == ["EMAIL_TAKEN"] * (THREADS - 1)
    assert client.users.LookupUser(LookupUserRequest(email=email)).user == replies[0].user


def test_one_of_16_updates_with_the_same_etag_wins(client: Suite) -> None:
    user = create_user(client)
    changes = [
        UpdateUserRequest(user=User(user_id=user.user_id, display_name=f"Ada {number}", etag=user.etag))
        for number in range(THREADS)
    ]
    replies, errors = all_at_once(client.users.UpdateUser, changes)
    assert [error.reason for error in errors] == ["USER_CHANGED"] * (THREADS - 1)
    assert client.users.GetUser(GetUserRequest(user_id=user.user_id)).user == replies[0].user


def test_one_of_16_deletes_wins(client: Suite) -> None:
    user = create_user(client)
    requests = [DeleteUserRequest(user_id=user.user_id) for _ in range(THREADS)]
    replies, errors = all_at_once(client.users.DeleteUser, requests)
    assert [reply.user for reply in replies] == [user]
    assert [error.reason for error in errors] == ["USER_NOT_FOUND"] * (THREADS - 1)


def test_updates_of_different_labels_at_the_same_time_all_last(client: Suite) -> None:
    user_id = create_user(client).user_id
    labels = {f"key{number}": str(number) for number in range(THREADS)}
    changes = [
        UpdateUserRequest(
            user=User(user_id=user_id, labels={key: value}), update_mask=FieldMask(paths=[f"labels.{key}"])
        )
        for key, value in labels.items()
    ]
    replies, errors = all_at_once(client.users.UpdateUser, changes)
    assert not errors
    assert len({reply.user.etag for reply in replies}) == THREADS
    assert client.users.GetUser(GetUserRequest(user_id=user_id)).user.labels == labels
