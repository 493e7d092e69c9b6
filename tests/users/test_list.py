from __future__ import annotations

import base64
from collections.abc import Iterator

import grpc
import pytest

from handfast.client import Suite
from handfast.preferences.v1.preferences_pb2 import ListPreferenceDefinitionsRequest
from handfast.server.chassis.pipeline.layer import DEFAULT_MESSAGE_LIMIT
from handfast.server.chassis.requests.paging import page_token, require_page
from handfast.server.users.service import USERS
from handfast.users.v1.users_pb2 import (
    BatchGetUsersRequest,
    DeleteUserRequest,
    ListUsersRequest,
    ListUsersResponse,
    User,
)
from tests.calls import fields_at_fault, refusal
from tests.people import create_user, new_id


@pytest.fixture(scope="module")
def users(client: Suite) -> list[User]:
    """More than a page of the usual size."""
    return [create_user(client) for _ in range(51)]


def pages(client: Suite, size: int) -> Iterator[ListUsersResponse]:
    token = ""
    while True:
        page = client.users.ListUsers(ListUsersRequest(page_size=size, page_token=token))
        yield page
        token = page.next_page_token
        if not token:
            return


@pytest.mark.parametrize("size", [7, 50, 1000])
def test_all_pages_have_every_user_once_in_the_order_of_ids(client: Suite, users: list[User], size: int) -> None:
    listed: list[User] = []
    for page in pages(client, size):
        assert len(page.users) <= size
        listed.extend(page.users)
    ids = [user.user_id for user in listed]
    assert ids == sorted(set(ids))
    mine = {user.user_id for user in users}
    assert [user for user in listed if user.user_id in mine] == sorted(users, key=lambda user: user.user_id)


def test_a_page_has_one_user_where_one_is_asked_for(client: Suite, users: list[User]) -> None:
    first_two: list[User] = []
    for page, _ in zip(pages(client, 1), range(2), strict=False):
        assert len(page.users) <= 1
        first_two.extend(page.users)
    assert first_two == list(client.users.ListUsers(ListUsersRequest(page_size=2)).users)


def test_a_page_has_50_users_where_no_size_is_given(client: Suite, users: list[User]) -> None:
    page = client.users.ListUsers(ListUsersRequest())
    assert page == client.users.ListUsers(ListUsersRequest(page_size=50))
    assert page.next_page_token


@pytest.mark.parametrize("size", [1001, 2**31 - 1])
def test_a_page_size_beyond_1000_means_1000(client: Suite, users: list[User], size: int) -> None:
    largest = client.users.ListUsers(ListUsersRequest(page_size=1000))
    assert client.users.ListUsers(ListUsersRequest(page_size=size)) == largest
    assert require_page(ListUsersRequest(page_size=size), USERS) == (
        "",
        1000,
    )  # the suite under test may have fewer users


@pytest.mark.parametrize("size", [-1, -(2**31)])
def test_a_negative_page_size_is_refused(client: Suite, size: int) -> None:
    assert fields_at_fault(client.users.ListUsers, ListUsersRequest(page_size=size)) == ["page_size"]


def test_a_list_goes_on_where_the_last_user_of_a_page_is_deleted(client: Suite) -> None:
    last, following = (create_user(client, user_id=f"0--{letter}-{new_id()}") for letter in "ab")
    page = client.users.ListUsers(ListUsersRequest(page_size=1))
    assert list(page.users) == [last]  # its id comes before all others
    client.users.DeleteUser(DeleteUserRequest(user_id=last.user_id))
    request = ListUsersRequest(page_size=1, page_token=page.next_page_token)
    assert list(client.users.ListUsers(request).users) == [following]


@pytest.fixture(scope="module")
def large_users(client: Suite) -> Iterator[list[User]]:
    """As large as users can be, in the order of their ids; no other user comes between them."""
    labels = {f"k{number:062}": "👩" * 256 for number in range(64)}
    users = [
        create_user(client, user_id=f"0-large-{number:02}", labels=labels, display_name="👩" * 200)
        for number in range(64)
    ]
    yield users
    for user in users:
        client.users.DeleteUser(DeleteUserRequest(user_id=user.user_id))


def test_a_page_of_large_users_ends_before_its_reply_is_too_large(client: Suite, large_users: list[User]) -> None:
    listed: list[User] = []
    token = page_token(USERS, "0-large-")
    while len(listed) < len(large_users):
        page = client.users.ListUsers(ListUsersRequest(page_size=1000, page_token=token))
        assert 0 < page.ByteSize() <= DEFAULT_MESSAGE_LIMIT
        listed.extend(page.users)
        token = page.next_page_token
    assert listed[: len(large_users)] == large_users


def test_a_batch_takes_50_users_however_large_and_says_when_there_are_too_many(
    client: Suite, large_users: list[User]
) -> None:
    ids = [user.user_id for user in large_users]
    missing = [f"{number:064}" for number in range(950)]
    batch = client.users.BatchGetUsers(BatchGetUsersRequest(user_ids=[*missing, *ids[:50]]))
    assert list(batch.users) == large_users[:50]
    error = refusal(client.users.BatchGetUsers, BatchGetUsersRequest(user_ids=ids))
    assert (error.status, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESPONSE_TOO_LARGE")
    assert error.metadata == {"limit": str(DEFAULT_MESSAGE_LIMIT)}
    assert error.message.endswith("Ask for less at a time.")
    assert not error.retryable


def test_the_token_of_another_list_is_refused(client: Suite) -> None:
    definitions = client.preferences.ListPreferenceDefinitions(ListPreferenceDefinitionsRequest(page_size=1))
    assert definitions.next_page_token
    request = ListUsersRequest(page_token=definitions.next_page_token)
    assert fields_at_fault(client.users.ListUsers, request) == ["page_token"]


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode()


@pytest.mark.parametrize(
    "token",
    [
        "x", "%%%", "é", "2", " ", "A" * 100_000, encoded("users"), encoded("users\n\0"), encoded("users\n\ud800"),
        encoded('["users", "\\u0000"]'), encoded('["users", "\\ud800"]'), encoded("[" * 100_000),
    ],
    ids=lambda token: token[:16],
)  # fmt: skip
def test_a_token_that_no_page_gave_is_refused(client: Suite, token: str) -> None:
    assert fields_at_fault(client.users.ListUsers, ListUsersRequest(page_token=token)) == ["page_token"]


def test_all_that_is_wrong_with_a_list_comes_at_once(client: Suite) -> None:
    request = ListUsersRequest(page_size=-1, page_token="x")
    assert fields_at_fault(client.users.ListUsers, request) == ["page_size", "page_token"]
