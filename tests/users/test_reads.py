"""GetUser, LookupUser and BatchGetUsers."""

from __future__ import annotations

import grpc
import pytest

from handfast.client import Suite
from handfast.users.v1.users_pb2 import (
    BatchGetUsersRequest,
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    LookupUserRequest,
    UpdateUserRequest,
    User,
)
from tests.calls import fields_at_fault, refusal
from tests.people import create_user, new_email, new_id

BAD_IDS = ["A", "-a", "a-", "a_b", "a.b", "a b", "ä", "a\n", "x" * 65]


def test_a_user_can_be_read(client: Suite) -> None:
    user = create_user(client, display_name="Ada")
    reply = client.users.GetUser(GetUserRequest(user_id=user.user_id))
    assert (reply.user, reply.last_transaction_id) == (user, "")


@pytest.mark.parametrize("user_id", ["0", "a-b", "a--b", "x" * 64, "0-" * 31 + "00"])
def test_a_well_formed_id_that_nobody_has_is_not_found(client: Suite, user_id: str) -> None:
    error = refusal(client.users.GetUser, GetUserRequest(user_id=user_id))
    assert (error.status, error.service) == (grpc.StatusCode.NOT_FOUND, "handfast.users")
    assert (error.reason, error.metadata) == ("USER_NOT_FOUND", {"user_id": user_id})
    assert not error.retryable


@pytest.mark.parametrize("user_id", BAD_IDS)
def test_a_malformed_id_is_refused_by_every_method(client: Suite, user_id: str) -> None:
    users, user = client.users, User(user_id=user_id, email=new_email())
    assert fields_at_fault(users.CreateUser, CreateUserRequest(user=user)) == ["user.user_id"]
    assert fields_at_fault(users.GetUser, GetUserRequest(user_id=user_id)) == ["user_id"]
    assert fields_at_fault(users.BatchGetUsers, BatchGetUsersRequest(user_ids=["a", user_id])) == ["user_ids[1]"]
    assert fields_at_fault(users.UpdateUser, UpdateUserRequest(user=user)) == ["user.user_id"]
    assert fields_at_fault(users.DeleteUser, DeleteUserRequest(user_id=user_id)) == ["user_id"]


def test_the_id_is_required(client: Suite) -> None:
    users = client.users
    assert fields_at_fault(users.GetUser, GetUserRequest()) == ["user_id"]
    assert fields_at_fault(users.UpdateUser, UpdateUserRequest()) == ["user.user_id"]
    assert fields_at_fault(users.DeleteUser, DeleteUserRequest()) == ["user_id"]


def test_a_user_is_found_by_email_in_any_case(client: Suite) -> None:
    local = new_email().partition("@")[0]
    user = create_user(client, email=f"{local}.Émilie@Example.com")
    for email in (
        user.email,
        user.email.upper(),
        user.email.lower(),
        f"{local}.E\N{COMBINING ACUTE ACCENT}milie@example.com",
    ):
        assert client.users.LookupUser(LookupUserRequest(email=email)).user == user


def test_an_email_that_nobody_has_is_not_found_and_not_quoted(client: Suite) -> None:
    email = new_email()
    error = refusal(client.users.LookupUser, LookupUserRequest(email=email))
    assert (error.status, error.service) == (grpc.StatusCode.NOT_FOUND, "handfast.users")
    assert (error.reason, error.metadata) == ("USER_NOT_FOUND", {})
    assert not error.retryable
    assert email not in str(error)


def test_an_email_given_up_leads_nowhere_and_the_new_one_to_the_user(client: Suite) -> None:
    before = create_user(client)
    change = User(user_id=before.user_id, email=new_email())
    after = client.users.UpdateUser(UpdateUserRequest(user=change)).user
    assert refusal(client.users.LookupUser, LookupUserRequest(email=before.email)).reason == "USER_NOT_FOUND"
    assert client.users.LookupUser(LookupUserRequest(email=after.email)).user == after


@pytest.mark.parametrize("email", ["", "ada", "ada@example.com\n", f"{'a' * 243}@example.com"])
def test_what_is_no_email_cannot_be_looked_up(client: Suite, email: str) -> None:
    assert fields_at_fault(client.users.LookupUser, LookupUserRequest(email=email)) == ["email"]


def test_a_batch_has_users_and_missing_ids_in_the_order_of_the_request(client: Suite) -> None:
    first, second, third = (create_user(client) for _ in range(3))
    missing = sorted((new_id(), new_id()), reverse=True)
    user_ids = [third.user_id, missing[0], first.user_id, second.user_id, missing[1]]
    reply = client.users.BatchGetUsers(BatchGetUsersRequest(user_ids=user_ids))
    assert list(reply.users) == [third, first, second]
    assert list(reply.missing_user_ids) == missing


def test_a_batch_takes_1000_ids(client: Suite) -> None:
    user = create_user(client)
    missing = [new_id() for _ in range(999)]
    reply = client.users.BatchGetUsers(BatchGetUsersRequest(user_ids=[*missing, user.user_id]))
    assert (list(reply.users), list(reply.missing_user_ids)) == ([user], missing)


@pytest.mark.parametrize(
    ("user_ids", "expected"),
    [
        ([], ["user_ids"]),
        ([f"nobody-{number}" for number in range(1001)], ["user_ids"]),
        ([""] * 100_000, ["user_ids"]),  # one fault, not one for each
        (["a", "b", "a"], ["user_ids"]),
        (["a", ""], ["user_ids[1]"]),
        (["A", "b", "b", "C"], ["user_ids", "user_ids[0]", "user_ids[3]"]),
    ],
    ids=["none", "1001", "too many to look at", "a repeat", "an empty one", "several at once"],
)
def test_a_batch_refuses_what_is_not_1_to_1000_ids_each_once(
    client: Suite, user_ids: list[str], expected: list[str]
) -> None:
    assert fields_at_fault(client.users.BatchGetUsers, BatchGetUsersRequest(user_ids=user_ids)) == expected
