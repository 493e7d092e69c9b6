from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from handfast.client import Suite
from handfast.preferences.v1.preferences_pb2 import PREFERENCE_TYPE_BOOLEAN, Preferences, UpdatePreferencesRequest
from tests.calls import fields_at_fault, refusal
from tests.people import new_id
from tests.preferences.requests import define, get, plain_values, set_values, update, value

BEFORE = {"theme": "dark", "density": "compact"}


@pytest.fixture
def user_id(client: Suite) -> str:
    """A user who has set something."""
    user_id = new_id()
    set_values(client, user_id, BEFORE)
    return user_id


@pytest.mark.parametrize(
    ("paths", "sent", "expected"),
    [
        (["values.theme"], {"theme": "light", "density": "comfortable"}, {"theme": "light", "density": "compact"}),
        (["values.theme"], {}, {"density": "compact"}),
        (["values.time_format"], {"time_format": "12h"}, {**BEFORE, "time_format": "12h"}),
        (["values.time_format"], {}, BEFORE),
        (["values.theme", "values.time_format"], {"time_format": "12h"}, {"density": "compact", "time_format": "12h"}),
        (["values"], {"theme": "light"}, {"theme": "light"}),
        (["values"], {}, {}),
        (["*"], {"theme": "light"}, {"theme": "light"}),
        (["*"], {}, {}),
        ([], {"theme": "light", "time_format": "12h"}, {"theme": "light", "density": "compact", "time_format": "12h"}),
        ([], {}, BEFORE),
    ],
    ids=str,
)
def test_an_update_changes_what_the_mask_names_and_nothing_else(
    client: Suite, user_id: str, paths: list[str], sent: dict[str, Any], expected: dict[str, Any]
) -> None:
    after = set_values(client, user_id, sent, *paths)
    assert plain_values(after) == expected
    assert get(client, user_id) == after


def test_values_outside_of_the_mask_are_not_looked_at(client: Suite, user_id: str) -> None:
    after = set_values(client, user_id, {"theme": "light", "density": 7, "no_such_key": "x"}, "values.theme")
    assert plain_values(after) == {"theme": "light", "density": "compact"}


@pytest.mark.parametrize(
    "path",
    ["theme", "preferences.etag", "default", "values.", "values.A", "values.a.b", f"values.{'k' * 64}", ".", "", "**"],
)
def test_a_path_that_a_mask_cannot_have_is_refused(client: Suite, user_id: str, path: str) -> None:
    request = update(user_id, {"theme": "light"}, "values.theme", path)
    assert fields_at_fault(client.preferences.UpdatePreferences, request) == ["update_mask"]


def test_a_star_stands_alone(client: Suite, user_id: str) -> None:
    assert fields_at_fault(client.preferences.UpdatePreferences, update(user_id, {}, "*", "values")) == ["update_mask"]


def test_an_update_gives_a_new_etag_and_update_time(client: Suite, user_id: str) -> None:
    before = get(client, user_id)
    after = set_values(client, user_id, {"theme": "light"})
    assert after.etag not in ("", "0", before.etag)
    assert after.update_time.ToNanoseconds() > before.update_time.ToNanoseconds()


def test_output_only_fields_are_ignored(client: Suite, user_id: str) -> None:
    request = update(user_id, {"theme": "light"})
    request.preferences.update_time.CopyFrom(Timestamp(seconds=1))
    request.preferences.defaults["density"].CopyFrom(value("comfortable"))
    after = client.preferences.UpdatePreferences(request).preferences
    assert after.update_time.ToSeconds() > 1
    assert not after.defaults


def test_a_mask_may_name_all_fields_of_what_was_read(client: Suite, user_id: str) -> None:
    read = get(client, user_id, include_defaults=True)
    read.values["theme"].CopyFrom(value("light"))
    mask = FieldMask(paths=[*Preferences.DESCRIPTOR.fields_by_name, "defaults.time_format", "update_time.seconds"])
    request = UpdatePreferencesRequest(preferences=read, update_mask=mask)
    after = client.preferences.UpdatePreferences(request).preferences
    assert plain_values(after) == {**BEFORE, "theme": "light"}


@pytest.mark.parametrize("path", ["user_id", "update_time", "etag", "defaults", "defaults.theme"])
def test_a_mask_of_what_no_update_changes_changes_nothing(client: Suite, user_id: str, path: str) -> None:
    before = get(client, user_id)
    assert set_values(client, user_id, {"theme": "light"}, path) == before


def test_preferences_that_were_never_set_have_an_etag_that_an_update_can_name(client: Suite) -> None:
    user_id = new_id()
    first = set_values(client, user_id, {"theme": "dark"}, etag="0")
    error = refusal(client.preferences.UpdatePreferences, update(user_id, {"theme": "light"}, etag="0"))
    assert error.reason == "PREFERENCES_CHANGED"
    assert get(client, user_id) == first


def test_the_etag_of_each_answer_is_good_for_the_next_update(client: Suite, user_id: str) -> None:
    after = get(client, user_id)
    for theme in ("light", "system", "dark"):
        after = set_values(client, user_id, {"theme": theme}, etag=after.etag)
    assert plain_values(set_values(client, user_id, {"theme": "light"}))["theme"] == "light"


@pytest.mark.parametrize("path", ["values.theme", "values", "*"])
def test_a_stale_etag_is_refused_and_changes_nothing(client: Suite, user_id: str, path: str) -> None:
    stale = get(client, user_id).etag
    now = set_values(client, user_id, {"theme": "system"})
    error = refusal(client.preferences.UpdatePreferences, update(user_id, {"theme": "light"}, path, etag=stale))
    assert (error.status, error.service) == (grpc.StatusCode.ABORTED, "handfast.preferences")
    assert (error.reason, error.metadata) == ("PREFERENCES_CHANGED", {"user_id": user_id})
    assert not error.retryable
    assert get(client, user_id) == now


def test_an_etag_is_refused_where_nothing_was_ever_set(client: Suite) -> None:
    user_id = new_id()
    error = refusal(client.preferences.UpdatePreferences, update(user_id, {"theme": "light"}, etag="stale"))
    assert error.reason == "PREFERENCES_CHANGED"
    assert get(client, user_id).etag == "0"


def test_preferences_take_256_values_and_no_more(client: Suite) -> None:
    user_id = new_id()
    keys = [define(client, PREFERENCE_TYPE_BOOLEAN) for _ in range(257)]
    too_many = update(user_id, dict.fromkeys(keys, True))
    assert fields_at_fault(client.preferences.UpdatePreferences, too_many) == ["preferences.values"]
    assert len(set_values(client, user_id, dict.fromkeys(keys[:256], True)).values) == 256

    one_more = update(user_id, {keys[256]: True})
    assert fields_at_fault(client.preferences.UpdatePreferences, one_more) == ["preferences.values"]
    in_place_of_one = [f"values.{keys[0]}", f"values.{keys[256]}"]
    assert len(set_values(client, user_id, {keys[256]: True}, *in_place_of_one).values) == 256


def test_too_many_values_are_one_violation_whatever_they_are(client: Suite) -> None:
    request = update(new_id(), {f"key{number}": "x" for number in range(1000)})
    assert fields_at_fault(client.preferences.UpdatePreferences, request) == ["preferences.values"]
