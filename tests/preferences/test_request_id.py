"""A repeat of a write under its request id is harmless (AIP-155)."""

from __future__ import annotations

import grpc
import pytest

from handfast.client import ServiceError, Suite
from handfast.preferences.v1.preferences_pb2 import PREFERENCE_TYPE_BOOLEAN, CreatePreferenceDefinitionRequest
from tests.calls import all_at_once, fields_at_fault, refusal
from tests.people import new_id
from tests.preferences.requests import definition, get, plain_values, set_values, update, value


def assert_reused(error: ServiceError, request_id: str) -> None:
    assert (error.status, error.service) == (grpc.StatusCode.INVALID_ARGUMENT, "handfast.preferences")
    assert (error.reason, error.metadata, error.retryable) == ("REQUEST_ID_REUSED", {"request_id": request_id}, False)


@pytest.mark.parametrize("etag", ["0", ""])
def test_a_repeated_update_is_answered_like_the_first_and_changes_nothing(client: Suite, etag: str) -> None:
    request = update(new_id(), {"theme": "dark"}, etag=etag)
    request.request_id = new_id()
    first = client.preferences.UpdatePreferences(request)
    now = set_values(client, request.preferences.user_id, {"theme": "light"})
    assert client.preferences.UpdatePreferences(request) == first
    assert get(client, request.preferences.user_id) == now


def test_a_repeat_after_all_preferences_were_cleared_says_so(client: Suite) -> None:
    request = update(new_id(), {"theme": "dark"})
    request.request_id = new_id()
    client.preferences.UpdatePreferences(request)
    cleared = update(request.preferences.user_id, {}, "values")
    cleared.request_id = new_id()
    now = client.preferences.UpdatePreferences(cleared)
    assert refusal(client.preferences.UpdatePreferences, request).reason == "ANSWER_ERASED"
    assert client.preferences.UpdatePreferences(cleared) == now


def test_a_repeated_definition_is_answered_like_the_first(client: Suite) -> None:
    asked = definition(PREFERENCE_TYPE_BOOLEAN)
    request = CreatePreferenceDefinitionRequest(definition=asked, request_id=new_id())
    first = client.preferences.CreatePreferenceDefinition(request)
    assert client.preferences.CreatePreferenceDefinition(request) == first


def test_a_request_id_with_other_content_is_refused(client: Suite) -> None:
    request_id, user_id = new_id(), new_id()
    updated = update(user_id, {"theme": "dark", "density": "compact"})
    updated.request_id = request_id
    first = client.preferences.UpdatePreferences(updated)
    updated.preferences.values["theme"].CopyFrom(value("light"))
    assert_reused(refusal(client.preferences.UpdatePreferences, updated), request_id)
    assert get(client, user_id) == first.preferences

    asked = definition(PREFERENCE_TYPE_BOOLEAN)
    defined = CreatePreferenceDefinitionRequest(definition=asked, request_id=request_id)
    client.preferences.CreatePreferenceDefinition(defined)
    defined.definition.description = "Something else."
    assert_reused(refusal(client.preferences.CreatePreferenceDefinition, defined), request_id)


def test_a_map_in_another_order_is_the_same_content(client: Suite) -> None:
    user_id, request_id = new_id(), new_id()
    values = {"theme": "dark", "density": "compact", "time_format": "12h", "product_news": True}
    there, back = update(user_id, values), update(user_id, dict(reversed(values.items())))
    there.request_id = back.request_id = request_id
    assert client.preferences.UpdatePreferences(there) == client.preferences.UpdatePreferences(back)


@pytest.mark.parametrize("malformed", ["1", "123e4567e89b12d3a456426614174000", "123e4567-e89b-12d3-a456-42661417400g"])
def test_a_request_id_that_is_no_uuid_is_refused(client: Suite, malformed: str) -> None:
    updated = update(new_id(), {"theme": "dark"})
    updated.request_id = malformed
    assert fields_at_fault(client.preferences.UpdatePreferences, updated) == ["request_id"]
    asked = definition(PREFERENCE_TYPE_BOOLEAN)
    defined = CreatePreferenceDefinitionRequest(definition=asked, request_id=malformed)
    assert fields_at_fault(client.preferences.CreatePreferenceDefinition, defined) == ["request_id"]


def test_a_refused_request_can_be_corrected_under_its_request_id(client: Suite) -> None:
    request = update(new_id(), {"theme": "pink"}, etag="stale")
    request.request_id = new_id()
    assert fields_at_fault(client.preferences.UpdatePreferences, request) == ["preferences.values.theme"]
    request.preferences.values["theme"].CopyFrom(value("dark"))
    assert refusal(client.preferences.UpdatePreferences, request).reason == "PREFERENCES_CHANGED"
    request.preferences.etag = "0"
    assert plain_values(client.preferences.UpdatePreferences(request).preferences) == {"theme": "dark"}


def test_16_repeats_at_the_same_time_are_all_answered_alike(client: Suite) -> None:
    request = update(new_id(), {"theme": "dark"}, etag="0")
    request.request_id = new_id()
    replies, errors = all_at_once(client.preferences.UpdatePreferences, [request] * 16)
    assert not errors
    assert all(reply == replies[0] for reply in replies)
