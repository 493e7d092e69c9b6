from __future__ import annotations

import uuid
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from handfast.client import Suite
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, User
from tests.calls import fields_at_fault, refusal
from tests.people import create_user, new_email, new_id


def test_a_created_user_has_all_that_was_sent(client: Suite) -> None:
    fields: dict[str, Any] = {
        "user_id": new_id(),
        "email": new_email(),
        "display_name": "Ada",
        "locale": "pt-BR",
        "time_zone": "Europe/Lisbon",
        "labels": {"team": "red"},
    }
    user = client.users.CreateUser(CreateUserRequest(user=User(**fields))).user
    assert user.etag
    assert user == User(create_time=user.create_time, update_time=user.update_time, etag=user.etag, **fields)


def test_a_created_user_is_what_is_read_afterwards(client: Suite) -> None:
    user = create_user(client, display_name="Ada")
    assert client.users.GetUser(GetUserRequest(user_id=user.user_id)).user == user


def test_an_email_is_enough(client: Suite) -> None:
    user = create_user(client)
    assert uuid.UUID(user.user_id).version == 7
    assert user.create_time == user.update_time
    assert user.create_time.ToSeconds() > 0
    assert (user.display_name, user.locale, user.time_zone, dict(user.labels)) == ("", "", "", {})


def test_users_made_one_after_the_other_have_ids_in_that_order(client: Suite) -> None:
    ids = [create_user(client).user_id for _ in range(3)]
    assert ids == sorted(ids)


def test_output_only_fields_are_ignored(client: Suite) -> None:
    past = Timestamp(seconds=1)
    asked = User(email=new_email(), create_time=past, update_time=past, etag="mine")
    user = client.users.CreateUser(CreateUserRequest(user=asked)).user
    assert user.etag != "mine"
    assert past not in (user.create_time, user.update_time)


def test_an_id_of_64_characters_can_be_chosen(client: Suite) -> None:
    user_id = f"{new_id()}-{'x' * 27}"
    assert create_user(client, user_id=user_id).user_id == user_id
    assert client.users.GetUser(GetUserRequest(user_id=user_id)).user.user_id == user_id


def test_the_email_is_required(client: Suite) -> None:
    assert fields_at_fault(client.users.CreateUser, CreateUserRequest(user=User(user_id=new_id()))) == ["user.email"]
    assert fields_at_fault(client.users.CreateUser, CreateUserRequest()) == ["user.email"]


def test_an_id_in_use_is_refused(client: Suite) -> None:
    user = create_user(client)
    request = CreateUserRequest(user=User(user_id=user.user_id, email=new_email()))
    error = refusal(client.users.CreateUser, request)
    assert (error.status, error.service) == (grpc.StatusCode.ALREADY_EXISTS, "handfast.users")
    assert (error.reason, error.metadata) == ("USER_ALREADY_EXISTS", {"user_id": user.user_id})
    assert not error.retryable
    assert client.users.GetUser(GetUserRequest(user_id=user.user_id)).user == user
