"""An email belongs to one user, without regard to case, and to how its domain is written."""

# ruff: noqa: RUF001 (letters that look alike are what it is about)

from __future__ import annotations

import uuid

import grpc
import idna
import pytest

from handfast.client import ServiceError, Suite
from handfast.users.v1.users_pb2 import (
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    LookupUserRequest,
    UpdateUserRequest,
    User,
)
from tests.calls import refusal
from tests.people import create_user, new_email, new_id


def change_email(user: User, email: str) -> UpdateUserRequest:
    return UpdateUserRequest(user=User(user_id=user.user_id, email=email))


def assert_taken(error: ServiceError) -> None:
    assert (error.status, error.service) == (grpc.StatusCode.ALREADY_EXISTS, "handfast.users")
    assert (error.reason, error.metadata, error.retryable) == ("EMAIL_TAKEN", {"field": "user.email"}, False)


@pytest.mark.parametrize("case", [str, str.upper, str.title], ids=["the same", "upper case", "title case"])
def test_an_email_in_use_is_refused_in_whatever_case(client: Suite, case: type[str]) -> None:
    holder, other, user_id = create_user(client), create_user(client), new_id()
    email = case(holder.email)
    assert_taken(refusal(client.users.CreateUser, CreateUserRequest(user=User(user_id=user_id, email=email))))
    assert refusal(client.users.GetUser, GetUserRequest(user_id=user_id)).reason == "USER_NOT_FOUND"
    assert_taken(refusal(client.users.UpdateUser, change_email(other, email)))
    assert client.users.GetUser(GetUserRequest(user_id=other.user_id)).user == other


def test_a_user_can_change_the_case_of_their_own_email(client: Suite) -> None:
    user = create_user(client)
    assert client.users.UpdateUser(change_email(user, user.email.upper())).user.email == user.email.upper()
    assert client.users.LookupUser(LookupUserRequest(email=user.email)).user.user_id == user.user_id


def test_an_email_is_free_once_its_user_has_another(client: Suite) -> None:
    before = create_user(client)
    after = client.users.UpdateUser(change_email(before, new_email())).user
    new = create_user(client, email=before.email.upper())
    assert client.users.LookupUser(LookupUserRequest(email=before.email)).user == new
    assert_taken(refusal(client.users.UpdateUser, change_email(new, after.email)))


def test_an_email_is_free_once_its_user_is_deleted(client: Suite) -> None:
    old, other = create_user(client), create_user(client)
    client.users.DeleteUser(DeleteUserRequest(user_id=old.user_id))
    assert client.users.UpdateUser(change_email(other, old.email)).user.email == old.email


def test_an_email_that_was_refused_stays_with_its_user(client: Suite) -> None:
    holder, other = create_user(client), create_user(client)
    refusal(client.users.UpdateUser, change_email(other, holder.email))
    assert client.users.LookupUser(LookupUserRequest(email=holder.email)).user == holder
    assert client.users.LookupUser(LookupUserRequest(email=other.email)).user == other


SAME = [
    ("ada@bücher{}.example.com", "ada@{}.example.com"),  # the second by its A-label
    ("ada@bücher{}.example.com", "ada@BÜCHER{}.Example.COM"),
    ("ada@bücher{}.example.com", "ada@bu\u0308cher{}.example.com"),
    ("ada@d{}.example.com", "ada@ｄ{}.ｅｘａｍｐｌｅ.com"),
    ("ada@d{}.example.com", "ada@d{}。example。com"),
    ("ada@straße{}.example.com", "ada@STRAẞE{}.example.com"),
    ("ada@βόλο{}.example.com", "ada@ΒΌΛΟ{}.example.com"),
    ("åsa@{}.example.com", "A\u030aSA@{}.example.com"),
    ("straße@{}.example.com", "STRAẞE@{}.example.com"),
    ("νίκος@{}.example.com", "ΝΊΚΟΣ@{}.example.com"),
    ("ａda@{}.example.com", "ＡDA@{}.example.com"),
]
DIFFERENT = [
    ("cy@strasse{}.de", "cy@straße{}.de"),
    ("cy@βολος{}σ.com", "cy@βολος{}ς.com"),
    ("cy@{}i.com", "cy@{}ı.com"),
    ("strasse@{}.example.com", "straße@{}.example.com"),
    ("fi@{}.example.com", "ﬁ@{}.example.com"),
    ("i@{}.example.com", "ı@{}.example.com"),
    ("i@{}.example.com", "İ@{}.example.com"),
    ("ıi@{}.example.com", "iı@{}.example.com"),
    ("i\u0307@{}.example.com", "İ@{}.example.com"),
    ("ada@{}.example.com", "ａda@{}.example.com"),
    ("ada@bücher{}.example.com", "ada@bucher{}.example.com"),
]


def pair(one: str, other: str) -> tuple[str, str]:
    """These two emails, of domains that no other test has."""
    unique = uuid.uuid4().hex
    if other == "ada@{}.example.com":
        return one.format(unique), other.format(idna.encode(f"bücher{unique}").decode())
    return one.format(unique), other.format(unique)


@pytest.mark.parametrize(("one", "other"), [*SAME, *((other, one) for one, other in SAME[1:])])
def test_emails_that_are_the_same_belong_to_one_user(client: Suite, one: str, other: str) -> None:
    one, other = pair(one, other)
    holder = create_user(client, email=one)
    assert holder.email == one
    assert client.users.LookupUser(LookupUserRequest(email=other)).user == holder
    assert_taken(refusal(client.users.CreateUser, CreateUserRequest(user=User(email=other))))
    assert client.users.UpdateUser(change_email(holder, other)).user.email == other
    assert client.users.LookupUser(LookupUserRequest(email=one)).user.email == other


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_emails_that_differ_belong_to_two_users(client: Suite, one: str, other: str) -> None:
    one, other = pair(one, other)
    first = create_user(client, email=one)
    assert refusal(client.users.LookupUser, LookupUserRequest(email=other)).reason == "USER_NOT_FOUND"
    second = create_user(client, email=other)
    assert client.users.LookupUser(LookupUserRequest(email=one)).user == first
    assert client.users.LookupUser(LookupUserRequest(email=other)).user == second
