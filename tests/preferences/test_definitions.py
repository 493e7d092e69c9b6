"""CreatePreferenceDefinition."""

from __future__ import annotations

import math
import struct
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from handfast.client import Suite
from handfast.preferences.v1.preferences_pb2 import (
    PREFERENCE_TYPE_BOOLEAN,
    PREFERENCE_TYPE_NUMBER,
    PREFERENCE_TYPE_STRING,
    PREFERENCE_TYPE_STRING_LIST,
    PREFERENCE_TYPE_UNSPECIFIED,
    CreatePreferenceDefinitionRequest,
    ListPreferenceDefinitionsRequest,
    PreferenceDefinition,
    PreferenceType,
)
from tests.calls import all_at_once, fields_at_fault, refusal
from tests.people import new_id
from tests.preferences.requests import (
    UNKNOWN_FIELD,
    define,
    definition,
    new_key,
    plain_values,
    set_values,
    update,
    value,
)

BOOLEAN, NUMBER = PREFERENCE_TYPE_BOOLEAN, PREFERENCE_TYPE_NUMBER
STRING, STRING_LIST = PREFERENCE_TYPE_STRING, PREFERENCE_TYPE_STRING_LIST


def create(client: Suite, asked: PreferenceDefinition) -> PreferenceDefinition:
    request = CreatePreferenceDefinitionRequest(definition=asked)
    return client.preferences.CreatePreferenceDefinition(request).definition


def listed(client: Suite, key: str) -> PreferenceDefinition:
    definitions: list[PreferenceDefinition] = []
    token = ""
    while token or not definitions:
        request = ListPreferenceDefinitionsRequest(page_size=1000, page_token=token)
        page = client.preferences.ListPreferenceDefinitions(request)
        definitions.extend(page.definitions)
        token = page.next_page_token
    return next(each for each in definitions if each.key == key)


def refused_fields(client: Suite, asked: PreferenceDefinition) -> dict[str, str]:
    """The reason of each field at fault."""
    error = refusal(client.preferences.CreatePreferenceDefinition, CreatePreferenceDefinitionRequest(definition=asked))
    assert (error.status, error.service) == (grpc.StatusCode.INVALID_ARGUMENT, "handfast.preferences")
    assert error.reason == "INVALID_FIELDS"
    return {violation.field: violation.reason for violation in error.violations}


@pytest.mark.parametrize(
    "asked",
    [
        definition(BOOLEAN),
        definition(BOOLEAN, True, default_value=value(True)),
        definition(NUMBER, 1, 2.5, default_value=value(2.5), description="How many."),
        definition(STRING, *(str(number) for number in range(100)), default_value=value("99")),
        definition(STRING, default_value=value("")),
        definition(STRING_LIST, "red", "blue", default_value=value(["blue", "red"])),
        definition(STRING_LIST, "red", default_value=value([])),
        definition(STRING, description="ą" * 1000),
        definition(STRING, key=new_key().ljust(63, "x")),
        definition(STRING, key="a1_b2_" + new_key()),
    ],
    ids=lambda asked: PreferenceType.Name(asked.type).removeprefix("PREFERENCE_TYPE_").lower(),
)
def test_a_definition_is_stored_as_it_was_sent(client: Suite, asked: PreferenceDefinition) -> None:
    created = create(client, asked)
    assert created.create_time.ToSeconds() > 0
    assert listed(client, asked.key) == created
    created.ClearField("create_time")
    assert created == asked


@pytest.mark.parametrize("number", [-0.0, 1.8525422722862283e-298])
def test_a_default_is_kept_to_the_bit(client: Suite, number: float) -> None:
    created = create(client, definition(NUMBER, default_value=Value(number_value=number)))
    assert struct.pack("d", listed(client, created.key).default_value.number_value) == struct.pack("d", number)


def test_fields_that_nobody_knows_are_no_part_of_a_definition(client: Suite) -> None:
    asked = definition(STRING, "a")
    asked.MergeFromString(UNKNOWN_FIELD)
    created = create(client, asked)
    assert created == listed(client, asked.key)
    asked = definition(STRING, "a", "a")
    asked.allowed_values[1].MergeFromString(UNKNOWN_FIELD)
    assert refused_fields(client, asked) == {"definition.allowed_values[1]": ""}


def test_a_user_can_set_what_was_just_defined(client: Suite) -> None:
    asked = definition(STRING)
    user_id = new_id()
    unknown = refusal(client.preferences.UpdatePreferences, update(user_id, {asked.key: "x"}))
    assert unknown.violations[0].reason == "UNKNOWN_PREFERENCE"
    create(client, asked)
    assert plain_values(set_values(client, user_id, {asked.key: "x"})) == {asked.key: "x"}


def test_the_time_of_creation_is_output_only(client: Suite) -> None:
    past = Timestamp(seconds=1)
    assert create(client, definition(STRING, create_time=past)).create_time != past


@pytest.mark.parametrize("kind", [STRING, NUMBER])
def test_a_key_can_be_defined_once(client: Suite, kind: PreferenceType.ValueType) -> None:
    key = define(client, STRING)
    again = CreatePreferenceDefinitionRequest(definition=definition(kind, key=key))
    error = refusal(client.preferences.CreatePreferenceDefinition, again)
    assert (error.status, error.service) == (grpc.StatusCode.ALREADY_EXISTS, "handfast.preferences")
    assert (error.reason, error.metadata) == ("DEFINITION_ALREADY_EXISTS", {"key": key})
    assert not error.retryable
    assert listed(client, key).type == STRING


def test_one_of_16_definitions_of_the_same_key_wins(client: Suite) -> None:
    key = new_key()
    requests = [
        CreatePreferenceDefinitionRequest(definition=definition(STRING, key=key, description=str(number)))
        for number in range(16)
    ]
    replies, errors = all_at_once(client.preferences.CreatePreferenceDefinition, requests)
    assert [error.reason for error in errors] == ["DEFINITION_ALREADY_EXISTS"] * 15
    assert listed(client, key) == replies[0].definition


@pytest.mark.parametrize("key", ["", "A", "1a", "_a", "a_", "a__b", "a_1", "a-b", "a.b", "ä", "a\n", "k" * 64])
def test_a_malformed_key_is_refused(client: Suite, key: str) -> None:
    assert refused_fields(client, definition(STRING, key=key)) == {"definition.key": ""}


@pytest.mark.parametrize("kind", [PREFERENCE_TYPE_UNSPECIFIED, PreferenceType.ValueType(99)])
def test_a_type_is_required(client: Suite, kind: PreferenceType.ValueType) -> None:
    assert refused_fields(client, definition(kind)) == {"definition.type": ""}


def test_a_description_of_more_than_1000_characters_is_refused(client: Suite) -> None:
    assert refused_fields(client, definition(STRING, description="x" * 1001)) == {"definition.description": ""}


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        (BOOLEAN, value(1)),
        (NUMBER, value("1")),
        (NUMBER, Value(number_value=math.nan)),
        (NUMBER, Value(number_value=math.inf)),
        (STRING, value(["x"])),
        (STRING, value(None)),
        (STRING, Value()),
        (STRING_LIST, value("x")),
        (STRING_LIST, value([1])),
        (STRING_LIST, value(["x"] * 101)),
    ],
    ids=lambda each: repr(each).strip()[:24],
)
def test_a_default_of_another_type_is_refused(client: Suite, kind: PreferenceType.ValueType, default: Value) -> None:
    expected = {"definition.default_value": "WRONG_TYPE"}
    assert refused_fields(client, definition(kind, default_value=default)) == expected


@pytest.mark.parametrize(
    ("kind", "allowed", "default"), [(NUMBER, [1, 2], 3), (STRING, ["a"], "b"), (STRING_LIST, ["a"], ["a", "b"])]
)
def test_a_default_that_is_not_allowed_is_refused(
    client: Suite, kind: PreferenceType.ValueType, allowed: list[Any], default: Any
) -> None:
    asked = definition(kind, *allowed, default_value=value(default))
    assert refused_fields(client, asked) == {"definition.default_value": "VALUE_NOT_ALLOWED"}


def test_a_default_of_more_than_4096_bytes_is_refused(client: Suite) -> None:
    asked = definition(STRING, default_value=value("x" * 4094))
    assert refused_fields(client, asked) == {"definition.default_value": ""}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (BOOLEAN, value("x")),
        (NUMBER, value("x")),
        (NUMBER, Value(number_value=math.nan)),
        (NUMBER, Value(number_value=-math.inf)),
        (STRING, value(1)),
        (STRING, value(None)),
        (STRING_LIST, value(["x"])),
    ],
    ids=lambda each: repr(each).strip()[:24],
)
def test_an_allowed_value_of_another_type_is_refused(
    client: Suite, kind: PreferenceType.ValueType, wrong: Value
) -> None:
    right = {BOOLEAN: True, NUMBER: 1, STRING: "x", STRING_LIST: "x"}[kind]
    asked = definition(kind, right)
    asked.allowed_values.append(wrong)
    assert refused_fields(client, asked) == {"definition.allowed_values[1]": "WRONG_TYPE"}


def test_a_default_beside_an_allowed_value_that_is_no_number_is_refused_with_it(client: Suite) -> None:
    asked = definition(NUMBER, default_value=value(1))
    asked.allowed_values.append(Value(number_value=math.nan))
    assert refused_fields(client, asked) == {
        "definition.allowed_values[0]": "WRONG_TYPE",
        "definition.default_value": "VALUE_NOT_ALLOWED",
    }


def test_an_allowed_value_stands_once(client: Suite) -> None:
    assert refused_fields(client, definition(STRING, "a", "b", "a")) == {"definition.allowed_values[2]": ""}
    assert refused_fields(client, definition(NUMBER, 1, 1.0)) == {"definition.allowed_values[1]": ""}


@pytest.mark.parametrize("number", [101, 100_000])
def test_more_than_100_allowed_values_are_refused(client: Suite, number: int) -> None:
    asked = definition(NUMBER)
    asked.allowed_values.extend(Value(number_value=each) for each in range(number))
    assert refused_fields(client, asked) == {"definition.allowed_values": ""}


def test_all_violations_come_at_once(client: Suite) -> None:
    asked = definition(STRING, 1, key="A", description="x" * 1001, default_value=value(True))
    request = CreatePreferenceDefinitionRequest(definition=asked, request_id="once")
    assert fields_at_fault(client.preferences.CreatePreferenceDefinition, request) == [
        "definition.allowed_values[0]", "definition.default_value", "definition.description", "definition.key",
        "request_id",
    ]  # fmt: skip
