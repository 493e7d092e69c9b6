"""GetPreferences and BatchGetPreferences."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from handfast.client import Suite
from handfast.preferences.v1.preferences_pb2 import (
    PREFERENCE_TYPE_BOOLEAN,
    PREFERENCE_TYPE_NUMBER,
    PREFERENCE_TYPE_STRING_LIST,
    BatchGetPreferencesRequest,
    GetPreferencesRequest,
    Preferences,
)
from tests.calls import fields_at_fault
from tests.people import new_id
from tests.preferences.requests import define, get, plain_values, set_values, update, value


def test_preferences_exist_and_are_empty_for_any_user_id(client: Suite) -> None:
    user_id = new_id()
    reply = client.preferences.GetPreferences(GetPreferencesRequest(user_id=user_id))
    assert reply.preferences == Preferences(user_id=user_id, etag="0")
    assert not reply.preferences.HasField("update_time")
    assert reply.last_transaction_id == ""


def test_values_that_were_set_are_read(client: Suite) -> None:
    user_id = new_id()
    after = set_values(
        client, user_id, {"theme": "dark", "items_per_page": 50, "product_news": True, "muted_topics": ["a", ""]}
    )
    assert get(client, user_id) == after
    assert after.user_id == user_id
    assert after.update_time.ToSeconds() > 0
    assert plain_values(after) == {
        "theme": "dark", "items_per_page": 50, "product_news": True, "muted_topics": ["a", ""]
    }  # fmt: skip


def test_defaults_come_where_they_are_asked_for_and_apart_from_values(client: Suite) -> None:
    user_id = new_id()
    set_values(client, user_id, {"theme": "dark"})
    assert not get(client, user_id).defaults
    preferences = get(client, user_id, include_defaults=True)
    assert plain_values(preferences) == {"theme": "dark"}
    assert "theme" not in preferences.defaults
    assert preferences.defaults["time_format"] == value("24h")


def test_the_first_definitions_have_defaults(client: Suite) -> None:
    defaults = get(client, new_id(), include_defaults=True).defaults
    plain: dict[str, Any] = {key: json_format.MessageToDict(default) for key, default in defaults.items()}
    assert plain.items() >= {
        "theme": "system", "density": "comfortable", "items_per_page": 25, "start_of_week": "monday",
        "time_format": "24h", "email_notifications": True, "product_news": False,
    }.items()  # fmt: skip
    assert plain["muted_topics"] == []


def test_a_definition_without_a_default_gives_none_and_a_new_one_is_there_at_once(client: Suite) -> None:
    user_id = new_id()
    without = define(client, PREFERENCE_TYPE_BOOLEAN)
    false = define(client, PREFERENCE_TYPE_BOOLEAN, default_value=value(False))
    zero = define(client, PREFERENCE_TYPE_NUMBER, default_value=value(0))
    empty = define(client, PREFERENCE_TYPE_STRING_LIST, default_value=value([]))
    defaults = get(client, user_id, include_defaults=True).defaults
    assert without not in defaults
    assert (defaults[false], defaults[zero], defaults[empty]) == (value(False), value(0), value([]))


def test_a_removed_value_has_its_default_again(client: Suite) -> None:
    user_id = new_id()
    set_values(client, user_id, {"theme": "dark"})
    set_values(client, user_id, {}, "values.theme")
    assert get(client, user_id, include_defaults=True).defaults["theme"] == value("system")


def test_what_was_read_with_defaults_can_be_written_back(client: Suite) -> None:
    user_id = new_id()
    set_values(client, user_id, {"theme": "dark"})
    request = update(user_id, {}, "*")
    request.preferences.CopyFrom(get(client, user_id, include_defaults=True))
    after = client.preferences.UpdatePreferences(request).preferences
    assert plain_values(after) == {"theme": "dark"}
    assert not after.defaults


@pytest.mark.parametrize("user_id", ["", "A", "-a", "a-", "a_b", "a\n", "x" * 65])
def test_a_malformed_id_is_refused_by_every_method(client: Suite, user_id: str) -> None:
    service = client.preferences
    assert fields_at_fault(service.GetPreferences, GetPreferencesRequest(user_id=user_id)) == ["user_id"]
    batch = BatchGetPreferencesRequest(user_ids=["a", user_id])
    assert fields_at_fault(service.BatchGetPreferences, batch) == ["user_ids[1]"]
    assert fields_at_fault(service.UpdatePreferences, update(user_id, {"theme": "dark"})) == ["preferences.user_id"]


@pytest.mark.parametrize("user_id", ["0", "a--b", "x" * 64])
def test_a_well_formed_id_is_taken(client: Suite, user_id: str) -> None:
    assert get(client, user_id).user_id == user_id


def test_a_batch_has_one_for_each_id_in_the_order_of_the_request(client: Suite) -> None:
    first, never, second = (new_id() for _ in range(3))
    set_values(client, first, {"theme": "dark"})
    set_values(client, second, {"theme": "light"})
    request = BatchGetPreferencesRequest(user_ids=[second, never, first])
    reply = client.preferences.BatchGetPreferences(request)
    assert list(reply.preferences) == [get(client, second), Preferences(user_id=never, etag="0"), get(client, first)]


def test_a_batch_fills_in_defaults_where_they_are_asked_for(client: Suite) -> None:
    never, dark = new_id(), new_id()
    set_values(client, dark, {"theme": "dark"})
    request = BatchGetPreferencesRequest(user_ids=[never, dark], include_defaults=True)
    reply = client.preferences.BatchGetPreferences(request)
    assert list(reply.preferences) == [get(client, user_id, include_defaults=True) for user_id in (never, dark)]


def test_a_batch_takes_1000_ids(client: Suite) -> None:
    user_ids = [new_id() for _ in range(1000)]
    reply = client.preferences.BatchGetPreferences(BatchGetPreferencesRequest(user_ids=user_ids))
    assert [preferences.user_id for preferences in reply.preferences] == user_ids


@pytest.mark.parametrize(
    ("user_ids", "expected"),
    [
        ([], ["user_ids"]),
        ([f"nobody-{number}" for number in range(1001)], ["user_ids"]),
        ([""] * 100_000, ["user_ids"]),  # one fault, not one for each
        (["a", "b", "a"], ["user_ids"]),
        (["A", "b", "b", ""], ["user_ids", "user_ids[0]", "user_ids[3]"]),
    ],
    ids=["none", "1001", "too many to look at", "a repeat", "several at once"],
)
def test_a_batch_refuses_what_is_not_1_to_1000_ids_each_once(
    client: Suite, user_ids: list[str], expected: list[str]
) -> None:
    request = BatchGetPreferencesRequest(user_ids=user_ids)
    assert fields_at_fault(client.preferences.BatchGetPreferences, request) == expected
