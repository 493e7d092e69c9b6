"""Which values a preference takes."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Value

from handfast.client import Suite
from handfast.preferences.v1.preferences_pb2 import (
    PREFERENCE_TYPE_BOOLEAN,
    PREFERENCE_TYPE_NUMBER,
    PREFERENCE_TYPE_STRING,
    PREFERENCE_TYPE_STRING_LIST,
    PreferenceType,
    UpdatePreferencesRequest,
)
from tests.calls import fields_at_fault, refusal
from tests.people import new_id
from tests.preferences.requests import UNKNOWN_FIELD, define, get, plain_values, set_values, update, value

BOOLEAN, NUMBER = PREFERENCE_TYPE_BOOLEAN, PREFERENCE_TYPE_NUMBER
STRING, STRING_LIST = PREFERENCE_TYPE_STRING, PREFERENCE_TYPE_STRING_LIST
OTHER_TYPES: dict[PreferenceType.ValueType, list[Any]] = {
    BOOLEAN: [1, 0, "true", [], {}, None],
    NUMBER: [True, "1", [1], {}, None],
    STRING: [True, 1, ["x"], {}, None],
    STRING_LIST: [True, 1, "x", {}, None, [1], ["x", True], ["x", None], [["x"]], ["x"] * 101],
}

BYTES_AROUND_A_STRING = 3
"""What a `Value` takes beside the bytes of a string of 128 to 16383 of them."""


def reasons(client: Suite, request: UpdatePreferencesRequest) -> dict[str, str]:
    """The reason of each field at fault."""
    error = refusal(client.preferences.UpdatePreferences, request)
    assert (error.status, error.service) == (grpc.StatusCode.INVALID_ARGUMENT, "handfast.preferences")
    assert error.reason == "INVALID_FIELDS"
    return {violation.field: violation.reason for violation in error.violations}


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (BOOLEAN, True),
        (BOOLEAN, False),
        (NUMBER, 0.0),
        (NUMBER, -2.5),
        (NUMBER, 2.0**53),
        (NUMBER, 1.7976931348623157e308),
        (NUMBER, 5e-324),
        (STRING, ""),
        (STRING, "Åsa 王小明 👩\n\0 'DROP TABLE'"),
        (STRING, "x" * (4096 - BYTES_AROUND_A_STRING)),
        (STRING_LIST, []),
        (STRING_LIST, ["b", "", "a", "b"]),
        (STRING_LIST, ["x"] * 100),
    ],
    ids=lambda each: repr(each).strip()[:24],
)
def test_a_value_of_the_type_is_stored_as_it_was_sent(
    client: Suite, kind: PreferenceType.ValueType, plain: Any
) -> None:
    key, user_id = define(client, kind), new_id()
    set_values(client, user_id, {key: plain})
    assert get(client, user_id).values[key] == value(plain)


def test_fields_that_nobody_knows_are_no_part_of_a_value(client: Suite) -> None:
    user_id, key = new_id(), define(client, STRING, "a", "b")
    before = set_values(client, user_id, {key: "a"})
    request = update(user_id, {key: "a"})
    request.preferences.values[key].MergeFromString(UNKNOWN_FIELD)
    assert client.preferences.UpdatePreferences(request).preferences == before == get(client, user_id)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((kind, value(plain)) for kind, plains in OTHER_TYPES.items() for plain in plains),
        *((NUMBER, Value(number_value=number)) for number in (math.nan, math.inf, -math.inf)),
        *((kind, Value()) for kind in OTHER_TYPES),
    ],
    ids=lambda each: repr(each).strip()[:24],
)
def test_a_value_of_another_type_is_refused(client: Suite, kind: PreferenceType.ValueType, wrong: Value) -> None:
    key, user_id = define(client, kind), new_id()
    request = update(user_id, {})
    request.preferences.values[key].CopyFrom(wrong)
    assert reasons(client, request) == {f"preferences.values.{key}": "WRONG_TYPE"}
    assert get(client, user_id).etag == "0"


@pytest.mark.parametrize("plain", ["x" * (4097 - BYTES_AROUND_A_STRING), "é" * 2047, ["x" * 1024] * 4])
def test_a_value_of_more_than_4096_bytes_is_refused(client: Suite, plain: Any) -> None:
    key = define(client, STRING_LIST if isinstance(plain, list) else STRING)
    assert value(plain).ByteSize() > 4096
    request = update(new_id(), {key: plain})
    assert fields_at_fault(client.preferences.UpdatePreferences, request) == [f"preferences.values.{key}"]


@pytest.mark.parametrize("key", ["no_such_preference", "Theme", "theme ", "", "a.b", "a\0", "é", "k" * 64])
def test_a_key_without_a_definition_is_refused(client: Suite, key: str) -> None:
    expected = {f"preferences.values.{key}": "UNKNOWN_PREFERENCE"}
    assert reasons(client, update(new_id(), {key: "x"})) == expected
    assert reasons(client, update(new_id(), {key: "x"}, "values")) == expected


@pytest.mark.parametrize(
    ("kind", "allowed", "good", "bad"),
    [
        (BOOLEAN, [True], True, False),
        (NUMBER, [10, 25.5], 25.5, 11),
        (STRING, ["light", ""], "", "Light"),
        (STRING_LIST, ["red", "blue"], ["blue", "blue", "red"], ["red", "green"]),
        (STRING_LIST, ["red"], [], ["", "red"]),
    ],
    ids=lambda each: repr(each).strip()[:24],
)
def test_where_values_are_listed_no_others_are_taken(
    client: Suite, kind: PreferenceType.ValueType, allowed: list[Any], good: Any, bad: Any
) -> None:
    key, user_id = define(client, kind, *allowed), new_id()
    assert plain_values(set_values(client, user_id, {key: good})) == {key: good}
    assert reasons(client, update(user_id, {key: bad})) == {f"preferences.values.{key}": "VALUE_NOT_ALLOWED"}


@pytest.mark.parametrize(
    ("kind", "allowed", "bad", "told"),
    [
        (NUMBER, [1000001, 1000002], 5, "must be one of 1000001, 1000002"),
        (NUMBER, [0.1, -2.5e-7, 2**53, 1e300], 5, "must be one of 0.1, -2.5e-07, 9007199254740992, 1e+300"),
        (STRING, ["", "a, b", "c"], "x", 'must be one of "", "a, b", "c"'),
        (STRING, ["5.0", 'say "é"\n'], "x", r'must be one of "5.0", "say \"é\"\n"'),
        (STRING_LIST, ["", "red"], ["x"], 'must be one of "", "red"'),
        (BOOLEAN, [True], False, "must be one of true"),
    ],
    ids=lambda each: repr(each).strip()[:24],
)
def test_allowed_values_are_told_with_all_their_digits_and_in_quotes(
    client: Suite, kind: PreferenceType.ValueType, allowed: list[Any], bad: Any, told: str
) -> None:
    request = update(new_id(), {define(client, kind, *allowed): bad})
    error = refusal(client.preferences.UpdatePreferences, request)
    assert [violation.description for violation in error.violations] == [told]


def test_all_violations_come_at_once_and_nothing_changes(client: Suite) -> None:
    user_id = new_id()
    request = update("Not an id", {"theme": "pink", "product_news": "yes", "no_such_key": 1, "density": "compact"}, "*")
    request.request_id = "once"
    assert reasons(client, request) == {
        "preferences.user_id": "",
        "preferences.values.theme": "VALUE_NOT_ALLOWED",
        "preferences.values.product_news": "WRONG_TYPE",
        "preferences.values.no_such_key": "UNKNOWN_PREFERENCE",
        "request_id": "",
    }
    refusal(client.preferences.UpdatePreferences, update(user_id, {"density": "compact", "theme": "pink"}))
    assert get(client, user_id).etag == "0"
