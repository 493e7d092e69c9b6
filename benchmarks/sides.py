"""The sides of the rows: what each starts, which calls it gets, and whose processor time is counted."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from benchmarks.calls import Calls, Method, Servers
from benchmarks.harness import Side
from benchmarks.place import Place, Suite, count
from handfast.accounts.v1.accounts_pb2 import UpdateUserAndPreferencesRequest
from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesRequest
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User

_GET_USER = "/handfast.users.v1.UserService/GetUser"
_UPDATE_USER = "/handfast.users.v1.UserService/UpdateUser"
_UPDATE_PREFERENCES = "/handfast.preferences.v1.PreferencesService/UpdatePreferences"
_UPDATE_BOTH = "/handfast.accounts.v1.AccountService/UpdateUserAndPreferences"
_THEMES = ("dark", "light")


def echo(place: Place) -> Side:
    """Bare `grpc.server`, which answers GetUser with a constant message."""
    peer = place.peer("echo")
    method = Method(peer.address, _GET_USER, lambda number: GetUserRequest(user_id="user-10000000"))
    return Calls([method], Servers([peer.pid]))


def get_user(place: Place) -> Side:
    """GetUser of the suite; counted is the users server."""
    suite = place.suite()
    return Calls([_method(suite, "users", _GET_USER, _get_user)], _servers(suite, "users"))


def update_user(place: Place) -> Side:
    """UpdateUser of the suite; counted is the users server."""
    suite = place.suite()
    return Calls([_method(suite, "users", _UPDATE_USER, _update_user)], _servers(suite, "users"))


def two_updates(place: Place) -> Side:
    """UpdateUser and UpdatePreferences, two calls at the same time; counted are both servers."""
    suite = place.suite()
    methods = [
        _method(suite, "users", _UPDATE_USER, _update_user),
        _method(suite, "preferences", _UPDATE_PREFERENCES, _update_preferences),
    ]
    return Calls(methods, _servers(suite, "users", "preferences"))


def atomic_update(place: Place) -> Side:
    """UpdateUserAndPreferences of the suite; counted are all three servers, until every transaction is finished."""
    return _atomic_update(place.suite())


def _atomic_update(suite: Suite) -> Side:
    unfinished = count(suite.database_urls["transactions"], "SELECT count(*) FROM decisions WHERE finish_time IS NULL")
    methods = [_method(suite, "accounts", _UPDATE_BOTH, _update_both)]
    return Calls(methods, _servers(suite, "users", "preferences", "accounts", unfinished=unfinished))


def _method(suite: Suite, server: str, path: str, request: Callable[[str, int], Message]) -> Method:
    return Method(suite.address(server), path, lambda number: request(suite.user_id(number), number))


def _servers(suite: Suite, *names: str, unfinished: Callable[[], int] = lambda: 0) -> Servers:
    pids = suite.process.servers()
    return Servers([pids[name] for name in names], [suite.metrics_url(name) for name in names], unfinished)


def _get_user(user_id: str, number: int) -> GetUserRequest:
    return GetUserRequest(user_id=user_id)


def _update_user(user_id: str, number: int) -> UpdateUserRequest:
    return UpdateUserRequest(user=_user(user_id, number))


def _update_preferences(user_id: str, number: int) -> UpdatePreferencesRequest:
    return UpdatePreferencesRequest(preferences=_preferences(user_id, number))


def _update_both(user_id: str, number: int) -> UpdateUserAndPreferencesRequest:
    return UpdateUserAndPreferencesRequest(user=_user(user_id, number), preferences=_preferences(user_id, number))


def _user(user_id: str, number: int) -> User:
    return User(user_id=user_id, display_name=f"Ada {number}")


def _preferences(user_id: str, number: int) -> Preferences:
    return Preferences(user_id=user_id, values={"theme": Value(string_value=_THEMES[number // 1000 % 2])})
