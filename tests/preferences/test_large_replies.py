"""However large what is stored may be, there is a way to read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from handfast.client import FailedPrecondition, channel
from handfast.preferences.v1.preferences_pb2 import (
    PREFERENCE_TYPE_STRING,
    BatchGetPreferencesRequest,
    CreatePreferenceDefinitionRequest,
    GetPreferencesRequest,
    ListPreferenceDefinitionsRequest,
    PreferenceDefinition,
    Preferences,
    UpdatePreferencesRequest,
)
from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceStub
from handfast.server.chassis.pipeline.layer import DEFAULT_MESSAGE_LIMIT
from handfast.server.preferences.server import build
from handfast.server.suite import SuiteSettings
from tests.calls import all_at_once, refusal
from tests.databases.fresh import fresh_database
from tests.preferences.requests import definition, value

DEFAULTS_LIMIT = 1024 * 1024
LARGEST = "x" * 4093
"""Of the strings that a value can have."""


@pytest.fixture(scope="module")
def preferences(
    database_urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PreferencesServiceStub]:
    """Of a server of its own, as what is defined stays."""
    folder: Path = tmp_path_factory.mktemp("large")
    url = fresh_database(database_urls, folder)
    server = build(SuiteSettings(name="preferences", listen="127.0.0.1:0", database_url=url, migrate=True, grace=0.5))
    server.start()
    with channel(server.address) as connected:
        yield PreferencesServiceStub(connected)
    server.stop()


@pytest.fixture(scope="module")
def definitions(preferences: PreferencesServiceStub) -> list[PreferenceDefinition]:
    """Large ones, each with a default, until no further default fits; in the order of their keys."""
    allowed = [value(f"{number:03}{LARGEST[3:]}") for number in range(100)]
    made: list[PreferenceDefinition] = []
    with suppress(FailedPrecondition):
        while True:
            asked = definition(
                PREFERENCE_TYPE_STRING,
                key=f"k{len(made):062}",
                default_value=value(LARGEST),
                allowed_values=[value(LARGEST), *allowed[1:]] if len(made) < 24 else [],  # for several pages
            )
            made.append(preferences.CreatePreferenceDefinition(create(asked)).definition)
    return made


def create(asked: PreferenceDefinition) -> CreatePreferenceDefinitionRequest:
    return CreatePreferenceDefinitionRequest(definition=asked)


@pytest.mark.parametrize("size", [0, 1000])
def test_a_page_of_large_definitions_ends_before_its_reply_is_too_large(
    preferences: PreferencesServiceStub, definitions: list[PreferenceDefinition], size: int
) -> None:
    listed: list[PreferenceDefinition] = []
    token = ""
    while token or not listed:
        request = ListPreferenceDefinitionsRequest(page_size=size, page_token=token)
        page = preferences.ListPreferenceDefinitions(request)
        assert 0 < page.ByteSize() <= DEFAULT_MESSAGE_LIMIT
        listed.extend(page.definitions)
        token = page.next_page_token
    assert [each for each in listed if each.key.startswith("k0")] == definitions


def test_the_largest_preferences_can_be_read_with_all_defaults(
    preferences: PreferencesServiceStub, definitions: list[PreferenceDefinition]
) -> None:
    without_default = [definition(PREFERENCE_TYPE_STRING, key=f"n{number:062}") for number in range(256)]
    for each in without_default:
        preferences.CreatePreferenceDefinition(create(each))
    largest = Preferences(user_id="largest", values={each.key: value(LARGEST) for each in without_default})
    stored = preferences.UpdatePreferences(UpdatePreferencesRequest(preferences=largest)).preferences
    read = preferences.GetPreferences(GetPreferencesRequest(user_id="largest", include_defaults=True)).preferences
    assert read.values == stored.values == largest.values
    assert {each.key: each.default_value for each in definitions}.items() <= dict(read.defaults).items()

    batch = BatchGetPreferencesRequest(user_ids=["largest"], include_defaults=True)
    assert preferences.BatchGetPreferences(batch).preferences == [read]


def test_a_batch_that_does_not_fit_says_so(
    preferences: PreferencesServiceStub, definitions: list[PreferenceDefinition]
) -> None:
    batch = BatchGetPreferencesRequest(user_ids=[f"u{number}" for number in range(1000)], include_defaults=True)
    error = refusal(preferences.BatchGetPreferences, batch)
    assert (error.status, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESPONSE_TOO_LARGE")
    assert error.metadata == {"limit": str(DEFAULT_MESSAGE_LIMIT)}
    batch.include_defaults = False
    assert len(preferences.BatchGetPreferences(batch).preferences) == 1000


def test_a_default_that_does_not_fit_is_refused_and_nothing_is_defined(
    preferences: PreferencesServiceStub, definitions: list[PreferenceDefinition]
) -> None:
    asked = definition(PREFERENCE_TYPE_STRING, default_value=value(LARGEST))
    error = refusal(preferences.CreatePreferenceDefinition, create(asked))
    assert (error.status, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DEFAULTS_TOO_LARGE")
    assert int(error.metadata["size"]) > int(error.metadata["limit"]) == DEFAULTS_LIMIT
    asked.ClearField("default_value")
    preferences.CreatePreferenceDefinition(create(asked))
    again = create(definitions[0])
    assert refusal(preferences.CreatePreferenceDefinition, again).reason == "DEFINITION_ALREADY_EXISTS"


def test_of_defaults_that_come_at_the_same_time_no_more_are_taken_than_fit(
    preferences: PreferencesServiceStub, definitions: list[PreferenceDefinition]
) -> None:
    read = preferences.GetPreferences(GetPreferencesRequest(user_id="u", include_defaults=True)).preferences
    left = DEFAULTS_LIMIT - Preferences(defaults=read.defaults).ByteSize()
    small = value("x" * (left // 2))  # with its key it fits once
    asked = [create(definition(PREFERENCE_TYPE_STRING, default_value=small)) for _ in range(8)]
    taken, refused = all_at_once(preferences.CreatePreferenceDefinition, asked)
    assert len(taken) == 1
    assert {error.reason for error in refused} == {"DEFAULTS_TOO_LARGE"}
