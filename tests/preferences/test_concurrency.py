"""Several updates at the same time."""

from __future__ import annotations

import pytest

from handfast.client import Suite
from handfast.preferences.v1.preferences_pb2 import PREFERENCE_TYPE_NUMBER
from tests.calls import all_at_once
from tests.people import new_id
from tests.preferences.requests import define, get, plain_values, set_values, update

THREADS = 16


def test_updates_of_different_keys_all_last(client: Suite) -> None:
    user_id = new_id()
    numbers = {define(client, PREFERENCE_TYPE_NUMBER): number for number in range(THREADS)}
    requests = [update(user_id, {key: number}) for key, number in numbers.items()]
    replies, errors = all_at_once(client.preferences.UpdatePreferences, requests)
    assert not errors
    assert len({reply.preferences.etag for reply in replies}) == THREADS
    assert plain_values(get(client, user_id)) == numbers


@pytest.mark.parametrize("were_set", [True, False])
def test_one_of_16_updates_with_the_same_etag_wins(client: Suite, were_set: bool) -> None:
    user_id, key = new_id(), define(client, PREFERENCE_TYPE_NUMBER)
    etag = set_values(client, user_id, {key: -1}).etag if were_set else "0"
    requests = [update(user_id, {key: number}, etag=etag) for number in range(THREADS)]
    replies, errors = all_at_once(client.preferences.UpdatePreferences, requests)
    assert [error.reason for error in errors] == ["PREFERENCES_CHANGED"] * (THREADS - 1)
    assert get(client, user_id) == replies[0].preferences
