"""A repeat of a write under its request id is harmless (AIP-155)."""

from __future__ import annotations

import grpc
import pytest

from handfast.client import ServiceError, Suite
from handfast.server.chassis.data.personal_data import without_personal_data
from handfast.users.v1.users_pb2 import (
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    LookupUserRequest,
    UpdateUserRequest,
    User,
)
from tests.calls import all_at_once, fields_at_fault, refusal
from tests.people import create_user, new_email, new_id


def assert_reused(error: ServiceError, request_id: str) -> None:
    assert (error.status, error.service) == (grpc.StatusCode.INVALID_ARGUMENT, "handfast.users")
    assert (error.reason, error.metadata, error.retryable) == ("REQUEST_ID_REUSED", {"request_id": request_id}, False)


def assert_erased(error: ServiceError, request_id: str) -> None:
    assert (error.status, error.service) == (grpc.StatusCode.FAILED_PRECONDITION, "handfast.users")
    assert (error.reason, error.metadata, error.retryable) == ("ANSWER_ERASED", {"request_id": request_id}, False)


def test_a_repeated_create_makes_one_user(client: Suite) -> None:
    request = CreateUserRequest(user=User(email=new_email()), request_id=new_id())
    first = client.users.CreateUser(request)
    assert client.users.CreateUser(request) == first
    assert client.users.LookupUser(LookupUserRequest(email=request.user.email)).user == first.user


@pytest.mark.parametrize("with_etag", [True, False])
def test_a_repeated_update_changes_the_user_once(client: Suite, with_etag: bool) -> None:
    user = create_user(client)
    asked = User(user_id=user.user_id, locale="en", etag=user.etag if with_etag else "")
    request = UpdateUserRequest(user=asked, request_id=new_id())
    first = client.users.UpdateUser(request)
    now = client.users.UpdateUser(UpdateUserRequest(user=User(user_id=user.user_id, locale="pt"))).user
    assert client.users.UpdateUser(request) == first
    assert client.users.GetUser(GetUserRequest(user_id=user.user_id)).user == now


def test_a_repeated_delete_is_answered_like_the_first_but_for_what_was_personal(client: Suite) -> None:
    user = create_user(client)
    request = DeleteUserRequest(user_id=user.user_id, request_id=new_id())
    assert client.users.DeleteUser(request).user == user
    assert client.users.DeleteUser(request).user == without_personal_data(user)


def test_a_repeat_after_the_user_was_deleted_says_so_and_does_nothing(client: Suite) -> None:
    create = CreateUserRequest(user=User(email=new_email()), request_id=new_id())
    user = client.users.CreateUser(create).user
    update = UpdateUserRequest(user=User(user_id=user.user_id, locale="en"), request_id=new_id())
    client.users.UpdateUser(update)
    client.users.DeleteUser(DeleteUserRequest(user_id=user.user_id))
    assert_erased(refusal(client.users.CreateUser, create), create.request_id)
    assert_erased(refusal(client.users.UpdateUser, update), update.request_id)
    assert refusal(client.users.GetUser, GetUserRequest(user_id=user.user_id)).reason == "USER_NOT_FOUND"
    assert refusal(client.users.LookupUser, LookupUserRequest(email=create.user.email)).reason == "USER_NOT_FOUND"


def test_a_repeat_after_a_transaction_has_deleted_the_user_says_so(client: Suite) -> None:
    create = CreateUserRequest(user=User(email=new_email()), request_id=new_id())
    user = client.users.CreateUser(create).user
    with client.transaction() as tx:
        tx.users.DeleteUser(DeleteUserRequest(user_id=user.user_id))
    # The participants finish after the commit; writing is what may not come before that.
    client.users.CreateUser(CreateUserRequest(user=User(user_id=user.user_id, email=new_email())))
    assert_erased(refusal(client.users.CreateUser, create), create.request_id)


def test_a_request_id_with_other_content_is_refused(client: Suite) -> None:
    user, other, request_id = create_user(client), create_user(client), new_id()

    created = CreateUserRequest(user=User(email=new_email()), request_id=request_id)
    client.users.CreateUser(created)
    created.user.display_name = "Grace"
    assert_reused(refusal(client.users.CreateUser, created), request_id)

    updated = UpdateUserRequest(user=User(user_id=user.user_id, locale="en"), request_id=request_id)
    client.users.UpdateUser(updated)
    updated.update_mask.paths.append("locale")
    assert_reused(refusal(client.users.UpdateUser, updated), request_id)

    client.users.DeleteUser(DeleteUserRequest(user_id=user.user_id, request_id=request_id))
    another = DeleteUserRequest(user_id=other.user_id, request_id=request_id)
    assert_reused(refusal(client.users.DeleteUser, another), request_id)
    assert client.users.GetUser(GetUserRequest(user_id=other.user_id)).user == other


@pytest.mark.parametrize(
    "malformed",
    [
        "1", "once", "123e4567e89b12d3a456426614174000", "{123e4567-e89b-12d3-a456-426614174000}",
        "urn:uuid:123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000 ",
        "123e4567-e89b-12d3-a456-42661417400g", "123e4567-e89b-12d3-a456-4266141740000",
    ],
)  # fmt: skip
def test_a_request_id_that_is_no_uuid_is_refused(client: Suite, malformed: str) -> None:
    users, user = client.users, User(user_id=new_id(), email=new_email())
    assert fields_at_fault(users.CreateUser, CreateUserRequest(user=user, request_id=malformed)) == ["request_id"]
    assert fields_at_fault(users.UpdateUser, UpdateUserRequest(user=user, request_id=malformed)) == ["request_id"]
    delete = DeleteUserRequest(user_id=user.user_id, request_id=malformed)
    assert fields_at_fault(users.DeleteUser, delete) == ["request_id"]


def test_a_refused_request_can_be_corrected_under_its_request_id(client: Suite) -> None:
    taken = create_user(client).email
    request = CreateUserRequest(user=User(email="nobody"), request_id=new_id())
    assert fields_at_fault(client.users.CreateUser, request) == ["user.email"]
    request.user.email = taken
    assert refusal(client.users.CreateUser, request).reason == "EMAIL_TAKEN"
    request.user.email = new_email()
    assert client.users.CreateUser(request).user.email == request.user.email


def test_a_refused_request_is_tried_anew_when_it_is_repeated(client: Suite) -> None:
    user_id = new_id()
    request = UpdateUserRequest(user=User(user_id=user_id, locale="en"), request_id=new_id())
    assert refusal(client.users.UpdateUser, request).reason == "USER_NOT_FOUND"
    create_user(client, user_id=user_id)
    assert client.users.UpdateUser(request).user.locale == "en"


def test_of_16_repeats_at_the_same_time_one_takes_effect_and_all_are_answered_alike(client: Suite) -> None:
    request = CreateUserRequest(user=User(email=new_email()), request_id=new_id())
    replies, errors = all_at_once(client.users.CreateUser, [request] * 16)
    assert not errors
    assert all(reply == replies[0] for reply in replies)
