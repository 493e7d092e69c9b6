"""What was accepted is there: the reply has what was asked for, and a read shows the same as the reply, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import Message

from handfast.accounts.v1 import accounts_pb2 as accounts
from handfast.client import Suite
from handfast.preferences.v1 import preferences_pb2 as preferences
from handfast.users.v1 import users_pb2 as users

SCALARS = ("email", "display_name", "locale", "time_zone")


def check(suite: Suite, request: Message, reply: Message) -> None:
    """For a plain call, one that is no part of a transaction. Raises AssertionError."""
    look = _LOOKS.get(type(request))
    if look is not None:
        look(suite, request, reply)


def _user(asked: users.User, got: users.User, paths: Iterable[str]) -> None:
    for path in paths:
        if path in SCALARS:
            assert getattr(got, path) == getattr(asked, path), path
        elif path == "labels":
            assert dict(got.labels) == dict(asked.labels)
        elif path == "*":
            _user(asked, got, (*SCALARS, "labels"))
        elif path.startswith("labels."):  # others are ignored
            key = path.removeprefix("labels.")
            assert got.labels.get(key) == asked.labels.get(key), path


def _preferences(asked: preferences.Preferences, got: preferences.Preferences, paths: Iterable[str]) -> None:
    for path in paths:
        if path in ("*", "values"):
            assert asked.values.keys() == got.values.keys(), path
            _preferences(asked, got, [f"values.{key}" for key in asked.values])
            continue
        if not path.startswith("values."):  # it is ignored
            continue
        key = path.removeprefix("values.")
        assert (key in asked.values) == (key in got.values), path
        if key in asked.values:
            same_bits(asked.values[key], got.values[key])


def same_bits(one: Message, other: Message) -> None:
    """Zero and minus zero differ; fields that nobody knows do not count."""
    encoded = []
    for each in (one, other):
        known = type(each)()
        known.CopyFrom(each)
        known.DiscardUnknownFields()
        encoded.append(known.SerializeToString(deterministic=True))
    assert encoded[0] == encoded[1], f"{one} and {other}"


def _exactly(one: Message, other: Message) -> None:
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True), f"{one}\n{other}"


def _set_in(user: users.User) -> list[str]:
    return [path for path in (*SCALARS, "labels") if getattr(user, path)]


def _create_user(suite: Suite, request: users.CreateUserRequest, reply: users.CreateUserResponse) -> None:
    _user(request.user, reply.user, ["*"])
    assert request.user.user_id in ("", reply.user.user_id)
    _exactly(_read_user(suite, reply.user.user_id), reply.user)


def _update_user(suite: Suite, request: users.UpdateUserRequest, reply: users.UpdateUserResponse) -> None:
    _user(request.user, reply.user, request.update_mask.paths or _set_in(request.user))
    _exactly(_read_user(suite, reply.user.user_id), reply.user)


def _read_user(suite: Suite, user_id: str) -> users.User:
    return suite.users.GetUser(users.GetUserRequest(user_id=user_id)).user


def _update_preferences(
    suite: Suite, request: preferences.UpdatePreferencesRequest, reply: preferences.UpdatePreferencesResponse
) -> None:
    _preferences(request.preferences, reply.preferences, request.update_mask.paths or _keys(request.preferences))
    read = preferences.GetPreferencesRequest(user_id=reply.preferences.user_id)
    _exactly(suite.preferences.GetPreferences(read).preferences, reply.preferences)


def _keys(asked: preferences.Preferences) -> list[str]:
    return [f"values.{key}" for key in asked.values]


def _define(
    suite: Suite,
    request: preferences.CreatePreferenceDefinitionRequest,
    reply: preferences.CreatePreferenceDefinitionResponse,
) -> None:
    asked = preferences.PreferenceDefinition()
    asked.CopyFrom(request.definition)
    asked.create_time.CopyFrom(reply.definition.create_time)
    same_bits(asked, reply.definition)
    token = ""
    while True:
        page = suite.preferences.ListPreferenceDefinitions(
            preferences.ListPreferenceDefinitionsRequest(page_size=100, page_token=token)
        )
        for listed in page.definitions:
            if listed.key == asked.key:
                _exactly(listed, reply.definition)
                return
        token = page.next_page_token
        assert token, f"the definition of {asked.key} is not listed"


def _create_account(
    suite: Suite, request: accounts.CreateAccountRequest, reply: accounts.CreateAccountResponse
) -> None:
    _user(request.user, reply.account.user, ["*"])
    _preferences(request.preferences, reply.account.preferences, ["*"])
    _exactly(_read_account(suite, reply.account.user.user_id), reply.account)


def _update_account(
    suite: Suite,
    request: accounts.UpdateUserAndPreferencesRequest,
    reply: accounts.UpdateUserAndPreferencesResponse,
) -> None:
    _user(request.user, reply.account.user, request.user_update_mask.paths or _set_in(request.user))
    paths = request.preferences_update_mask.paths or _keys(request.preferences)
    _preferences(request.preferences, reply.account.preferences, paths)
    _exactly(_read_account(suite, request.user.user_id), reply.account)


def _read_account(suite: Suite, user_id: str) -> accounts.Account:
    return suite.accounts.GetAccount(accounts.GetAccountRequest(user_id=user_id)).account


_LOOKS: dict[type[Message], Callable[[Suite, Any, Any], None]] = {
    users.CreateUserRequest: _create_user,
    users.UpdateUserRequest: _update_user,
    preferences.UpdatePreferencesRequest: _update_preferences,
    preferences.CreatePreferenceDefinitionRequest: _define,
    accounts.CreateAccountRequest: _create_account,
    accounts.UpdateUserAndPreferencesRequest: _update_account,
}
