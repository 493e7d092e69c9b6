"""Every method of every server lets in whom its contract names, and nobody else.

The methods come from the contracts, so that a new one is tried, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo

from handfast.chassis.v1 import options_pb2
from handfast.server.accounts.server import build as build_accounts
from handfast.server.chassis.security.permission import Permission
from handfast.server.preferences.server import build as build_preferences
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.users.server import build as build_users
from tests.fuzz.calls import Call, Metadata, Outcome, send
from tests.fuzz.methods import METHODS, Method
from tests.security.issuer import BAD, Issuer, bearer

BUILD = {"users": build_users, "preferences": build_preferences, "accounts": build_accounts}
REVOKED = "revoked-1"
REFUSALS = {"UNAUTHENTICATED", "SCOPE_MISSING", "NO_PERMISSION_DECLARED"}
OPEN = [method for method in METHODS if method.service.startswith("grpc.")]
GUARDED = [method for method in METHODS if method not in OPEN]
EVERY_SCOPE = {
    scope.replace("{server}", method.server)
    for method in GUARDED
    for scope in method.descriptor.GetOptions().Extensions[options_pb2.permission].scopes
}


@pytest.fixture(scope="module")
def channels(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, grpc.Channel]]:
    """To the servers of a suite that enforces permissions, by their names. They have no credentials for each other, so
    a call that was let in can end with the refusal of another server."""
    folder = tmp_path_factory.mktemp("enforced")
    (folder / "revoked").write_text(f"{REVOKED}\n")
    addresses: dict[str, str] = {}
    peers: dict[str, Any] = {}
    with ExitStack() as stack:
        for name, build in BUILD.items():
            settings = SuiteSettings(
                name=name,
                listen="127.0.0.1:0",
                database_url=sqlite_url(folder / f"{name}.sqlite3"),
                **issuer.settings(folder),
                revoked_tokens=str(folder / "revoked"),
                **peers,
            )
            server = build(settings)
            server.start()
            stack.callback(server.stop)
            addresses[name] = peers[f"{name}_address"] = server.address
        yield {
            name: stack.enter_context(closing(grpc.insecure_channel(address))) for name, address in addresses.items()
        }


@pytest.fixture(params=GUARDED, ids=str)
def method(request: pytest.FixtureRequest) -> Method:
    found: Method = request.param
    return found


def permission_of(method: Method) -> Permission:
    permission = Permission.of(method.descriptor, method.server)
    assert permission is not None
    return permission


def request_of(method: Method, *subjects: str) -> bytes:
    """A request that names one of these subjects in each field that says whose it is, all of them in lists."""
    message = GetMessageClass(method.request)()
    for path in method.descriptor.GetOptions().Extensions[options_pb2.permission].self:
        parent, name = _parent(message, path)
        if parent.DESCRIPTOR.fields_by_name[name].is_repeated:
            getattr(parent, name).extend(subjects)
        else:
            setattr(parent, name, subjects[-1])
    return message.SerializeToString()


def _parent(message: Message, path: str) -> tuple[Any, str]:
    *parents, name = path.removesuffix("?").split(".")
    for each in parents:
        message = getattr(message, each)
    return message, name


def call(
    channels: Mapping[str, grpc.Channel], method: Method, metadata: Metadata, request: bytes = b""
) -> tuple[grpc.StatusCode, str]:
    """The code, and why the server itself refused to let the caller in; empty where it did not."""
    outcome = send(channels[method.server], Call(method.path, [request], metadata, held=method.held))
    return outcome.code, refusal_of(outcome, method)


def refusal_of(outcome: Outcome, method: Method) -> str:
    info = ErrorInfo()
    for detail in outcome.status.details if outcome.status is not None else ():
        if detail.Unpack(info):
            own = info.domain not in {f"handfast.{other}" for other in BUILD if other != method.server}
            return info.reason if own and info.reason in REFUSALS else ""
    return ""


def test_nobody_is_let_in_without_a_token(channels: Mapping[str, grpc.Channel], method: Method) -> None:
    assert call(channels, method, ()) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert call(channels, method, (), b"\xff") == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


def test_no_bad_token_is_let_in(channels: Mapping[str, grpc.Channel], issuer: Issuer, method: Method) -> None:
    refused = (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    for kind, (problem, make) in BAD.items():
        ended = call(channels, method, bearer(make(issuer)))
        # Whether the issuer has a new key by now is asked first: that is to be tried again.
        asked = problem == "unknown_key" and ended == (grpc.StatusCode.UNAVAILABLE, "")
        assert asked or ended == refused, kind
    revoked = bearer(issuer.token("ada", EVERY_SCOPE, jti=REVOKED))
    assert call(channels, method, revoked) == refused
    twice = (*bearer(issuer.token("ada", EVERY_SCOPE)), *bearer(issuer.token("ada", EVERY_SCOPE)))
    assert call(channels, method, twice) == refused


def test_each_scope_that_a_method_needs_is_needed_and_all_others_do_not_do(
    channels: Mapping[str, grpc.Channel], issuer: Issuer, method: Method
) -> None:
    for scope in permission_of(method).scopes:
        others = bearer(issuer.token("ada", EVERY_SCOPE - {scope}))
        for request in (b"", b"\xff", request_of(method, "ada")):  # before the request is read
            denied = (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
            assert call(channels, method, others, request) == denied, scope


def test_the_scopes_of_a_method_are_enough(
    channels: Mapping[str, grpc.Channel], issuer: Issuer, method: Method
) -> None:
    code, refusal = call(channels, method, bearer(issuer.token("ada", permission_of(method).scopes)))
    assert not refusal, code


def test_the_scope_self_lets_in_to_what_is_the_callers_own_and_to_nothing_else(
    channels: Mapping[str, grpc.Channel], issuer: Issuer, method: Method
) -> None:
    own = bearer(issuer.token("ada", ("self",)))
    denied = (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert call(channels, method, own) == denied  # names nobody
    assert call(channels, method, own, request_of(method, "bob")) == denied
    if permission_of(method).own:
        assert call(channels, method, own, request_of(method, "ada"))[1] == ""
        assert call(channels, method, own, request_of(method, "ada", "bob")) == denied
        assert call(channels, method, own, request_of(method, "bob", "")) == denied


def test_self_is_declared_where_one_id_is_read_or_changed_and_nowhere_else() -> None:
    assert {method.name for method in GUARDED if permission_of(method).own} == {
        *("GetUser", "BatchGetUsers", "UpdateUser"),
        *("GetPreferences", "BatchGetPreferences", "UpdatePreferences"),
        *("GetAccount", "UpdateUserAndPreferences"),
    }


def test_of_an_account_both_ids_must_be_the_callers_own(channels: Mapping[str, grpc.Channel], issuer: Issuer) -> None:
    (update,) = (method for method in GUARDED if method.name == "UpdateUserAndPreferences")
    own = bearer(issuer.token("ada", ("self",)))
    message: Any = GetMessageClass(update.request)()
    message.user.user_id = "ada"
    assert call(channels, update, own, message.SerializeToString())[1] == ""  # as preferences.user_id may be empty
    message.preferences.user_id = "bob"
    assert call(channels, update, own, message.SerializeToString())[1] == "SCOPE_MISSING"
    message.user.user_id, message.preferences.user_id = "", "ada"
    assert call(channels, update, own, message.SerializeToString())[0] is not grpc.StatusCode.OK
    message.user.user_id, message.preferences.user_id = "bob", "ada"
    assert call(channels, update, own, message.SerializeToString())[1] == "SCOPE_MISSING"


def test_health_asks_nobody_and_what_a_server_does_not_have_only_those_who_are_known_are_told(
    channels: Mapping[str, grpc.Channel], issuer: Issuer
) -> None:
    for method in OPEN:
        code, refusal = call(channels, method, ())
        assert not refusal
        assert code is not grpc.StatusCode.UNAUTHENTICATED
    for channel in channels.values():
        assert send(channel, Call("/no.Such/Method", [b""])).code is grpc.StatusCode.UNAUTHENTICATED
        known = Call("/no.Such/Method", [b""], bearer(issuer.token("ada")))
        assert send(channel, known).code is grpc.StatusCode.UNIMPLEMENTED
