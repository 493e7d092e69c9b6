from __future__ import annotations

import pytest

from handfast.client import Suite
from handfast.preferences.v1.preferences_pb2 import (
    PREFERENCE_TYPE_BOOLEAN,
    ListPreferenceDefinitionsRequest,
    PreferenceDefinition,
)
from handfast.users.v1.users_pb2 import ListUsersRequest
from tests.calls import fields_at_fault
from tests.people import create_user
from tests.preferences.requests import define

FIRST_DEFINITIONS = {
    "theme", "density", "items_per_page", "start_of_week", "time_format", "email_notifications", "product_news",
    "muted_topics",
}  # fmt: skip


@pytest.fixture(scope="module")
def keys(client: Suite) -> set[str]:
    """More than a page of the usual size."""
    return {define(client, PREFERENCE_TYPE_BOOLEAN) for _ in range(51)}


@pytest.mark.parametrize("size", [9, 50, 1000])
def test_all_pages_have_every_definition_once_in_the_order_of_keys(client: Suite, keys: set[str], size: int) -> None:
    listed: list[PreferenceDefinition] = []
    token = ""
    while token or not listed:
        request = ListPreferenceDefinitionsRequest(page_size=size, page_token=token)
        page = client.preferences.ListPreferenceDefinitions(request)
        assert 0 < len(page.definitions) <= size
        listed.extend(page.definitions)
        token = page.next_page_token
    listed_keys = [definition.key for definition in listed]
    assert listed_keys == sorted(set(listed_keys))
    assert keys | FIRST_DEFINITIONS <= set(listed_keys)


def test_the_first_definitions_say_what_they_mean(client: Suite) -> None:
    page = client.preferences.ListPreferenceDefinitions(ListPreferenceDefinitionsRequest(page_size=1000))
    first = [definition for definition in page.definitions if definition.key in FIRST_DEFINITIONS]
    assert len(first) == len(FIRST_DEFINITIONS)
    assert all(definition.description and definition.HasField("create_time") for definition in first)


def test_a_page_has_50_definitions_where_no_size_is_given(client: Suite, keys: set[str]) -> None:
    page = client.preferences.ListPreferenceDefinitions(ListPreferenceDefinitionsRequest())
    assert len(page.definitions) == 50
    assert page.next_page_token


@pytest.mark.parametrize("size", [1001, 2**31 - 1])
def test_a_page_size_beyond_1000_means_1000(client: Suite, keys: set[str], size: int) -> None:
    method = client.preferences.ListPreferenceDefinitions
    largest = method(ListPreferenceDefinitionsRequest(page_size=1000))
    assert method(ListPreferenceDefinitionsRequest(page_size=size)) == largest


def test_the_token_of_another_list_is_refused(client: Suite) -> None:
    for _ in range(2):
        create_user(client)
    users = client.users.ListUsers(ListUsersRequest(page_size=1))
    assert users.next_page_token
    request = ListPreferenceDefinitionsRequest(page_token=users.next_page_token)
    assert fields_at_fault(client.preferences.ListPreferenceDefinitions, request) == ["page_token"]


def test_all_that_is_wrong_comes_at_once(client: Suite) -> None:
    request = ListPreferenceDefinitionsRequest(page_size=-1, page_token="garbage")
    assert fields_at_fault(client.preferences.ListPreferenceDefinitions, request) == ["page_size", "page_token"]
