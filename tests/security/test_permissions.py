"""Every method of every server lets in whom its contract names, and nobody else.

The methods come from the contracts, so that a new one is tried, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import grpc
import pytest
from cryptography import x509
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_reflection.v1alpha import reflection_pb2

from handfast.chassis.v1 import options_pb2
from handfast.server.chassis.security.permission import Permission
from handfast.transactions.v1.transactions_pb2 import CompareReadsRequest, LockResourcesRequest, Read
from tests.fuzz.calls import Call, Metadata, Outcome, send
from tests.fuzz.methods import Method
from tests.security.issuer import BAD, Issuer, bearer
from tests.security.servers import EVERY_SCOPE, GRANTED, GUARDED, OPEN, REVOKED, SERVICES, Servers, credentials

REFUSALS = {"UNAUTHENTICATED", "SCOPE_MISSING", "NO_PERMISSION_DECLARED"}
UNAUTHENTICATED = (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
PERSON = x509.RFC822Name("ada@example.com")
SCOPE_MISSING = (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


@pytest.fixture(params=GUARDED, ids=str)
def method(request: pytest.FixtureRequest) -> Method:
    found: Method = request.param
    return found


@pytest.fixture(scope="module")
def channels(servers: Servers) -> Iterator[Mapping[tuple[str, str], grpc.Channel]]:
    """To each server: with a certificate that is `granted` every scope, and with one that has no `name`."""
    issue = servers.authority.client
    certificates = {"granted": issue("granted", GRANTED), "nameless": issue("person", names=[PERSON])}
    with ExitStack() as stack:
        yield {
            (kind, server): stack.enter_context(closing(servers.channel(server, credentials(servers.authority, files))))
            for kind, files in certificates.items()
            for server in SERVICES
        }


@pytest.fixture
def granted(channels: Mapping[tuple[str, str], grpc.Channel], method: Method) -> grpc.Channel:
    return channels["granted", method.server]


@pytest.fixture
def nameless(channels: Mapping[tuple[str, str], grpc.Channel], method: Method) -> grpc.Channel:
    return channels["nameless", method.server]


def permission_of(method: Method) -> Permission:
    permission = Permission.of(method.descriptor, method.server)
    assert permission is not None
    return permission


OWN_KINDS = {"credits": "accounts"}
"""The kinds of resources that belong to subjects, where they are not called as their server."""


def request_of(method: Method, *subjects: str) -> bytes:
    """A request that names one of these subjects in each field that says whose it is, all of them in lists."""
    message = GetMessageClass(method.request)()
    for path in method.descriptor.GetOptions().Extensions[options_pb2.permission].self:
        kind = f"{OWN_KINDS.get(method.server, method.server)}/" if path.endswith("/") else ""
        _fill(message, path.rstrip("?/").split("."), [kind + subject for subject in subjects])
    return message.SerializeToString()


def _fill(message: Any, names: Sequence[str], values: Sequence[str]) -> None:
    (name, *inside), field = names, message.DESCRIPTOR.fields_by_name[names[0]]
    if not field.is_repeated and not inside:
        setattr(message, name, values[-1])
    elif not inside:
        getattr(message, name).extend(values)
    elif not field.is_repeated:
        _fill(getattr(message, name), inside, values)
    else:
        for value in values:
            _fill(getattr(message, name).add(), inside, [value])


def call(
    servers: Servers, method: Method, metadata: Metadata, request: bytes = b"", channel: grpc.Channel | None = None
) -> tuple[grpc.StatusCode, str]:
    """The code, and why the server itself refused to let the caller in; empty where it did not. Whoever is refused has
    not got as far as the handler."""
    outcome, ran = _sent(servers, method, metadata, request, channel)
    refusal = _refusal_of(outcome, method)
    assert not (refusal and ran), f"the handler of {method} has run"
    return outcome.code, refusal


def is_let_in(
    servers: Servers, method: Method, metadata: Metadata, request: bytes = b"", channel: grpc.Channel | None = None
) -> bool:
    """Whether the handler has run, whatever it made of the request."""
    return _sent(servers, method, metadata, request, channel)[1]


def _sent(
    servers: Servers, method: Method, metadata: Metadata, request: bytes, channel: grpc.Channel | None
) -> tuple[Outcome, bool]:
    servers.seen.ran.clear()
    sent = Call(method.path, [request], metadata, held=method.held)
    outcome = send(channel or servers.channels[method.server], sent)
    return outcome, method.path in servers.seen.ran


def _refusal_of(outcome: Outcome, method: Method) -> str:
    domains = {method.server, f"handfast.{method.server}"}  # those of others say that they have refused this server
    domains |= {"handfast.transactions"} if method.service.startswith("handfast.transactions.") else set()
    info = ErrorInfo()
    for detail in outcome.status.details if outcome.status is not None else ():
        if detail.Unpack(info):
            return info.reason if info.domain in domains and info.reason in REFUSALS else ""
    return ""


@pytest.mark.parametrize("server", SERVICES)
def test_every_service_of_a_server_is_tried(servers: Servers, server: str) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    (reply,) = send(servers.channels[server], Call(path, [request])).replies
    listed = reflection_pb2.ServerReflectionResponse.FromString(reply).list_services_response.service
    assert {each.name for each in listed} == {service.full_name for service in SERVICES[server]}


def test_nobody_is_let_in_without_a_token(servers: Servers, method: Method, nameless: grpc.Channel) -> None:
    for request in (b"", b"\xff", request_of(method, "ada")):
        assert call(servers, method, (), request, nameless) == UNAUTHENTICATED


def test_a_certificate_that_is_granted_nothing_lets_nobody_in_without_a_token(servers: Servers, method: Method) -> None:
    for request in (b"", b"\xff", request_of(method, "ada")):  # before the request is read
        assert call(servers, method, (), request) == SCOPE_MISSING


def test_no_bad_token_is_let_in(servers: Servers, issuer: Issuer, method: Method, granted: grpc.Channel) -> None:
    """Not even beside a certificate that is."""
    bad = {kind: (problem, bearer(make(issuer))) for kind, (problem, make) in BAD.items()}
    bad["revoked"] = "revoked", bearer(issuer.token("ada", EVERY_SCOPE, jti=REVOKED))
    bad["two"] = "repeated", 2 * bearer(issuer.token("ada", EVERY_SCOPE))
    for kind, (problem, metadata) in bad.items():
        ended = call(servers, method, metadata, channel=granted)
        # Whether the issuer has a new key by now is asked first: that is to be tried again.
        asked = problem == "unknown_key" and ended == (grpc.StatusCode.UNAVAILABLE, "")
        assert asked or ended == UNAUTHENTICATED, kind


def test_each_scope_that_a_method_needs_is_needed_and_all_others_do_not_do(
    servers: Servers, issuer: Issuer, method: Method
) -> None:
    for scope in permission_of(method).scopes:
        others = bearer(issuer.token("ada", EVERY_SCOPE - {scope}))
        for request in (b"", b"\xff", request_of(method, "ada")):  # before the request is read
            assert call(servers, method, others, request) == SCOPE_MISSING, scope


def test_the_scopes_of_a_method_are_enough(
    servers: Servers, issuer: Issuer, method: Method, granted: grpc.Channel
) -> None:
    assert is_let_in(servers, method, bearer(issuer.token("ada", permission_of(method).scopes)))
    assert is_let_in(servers, method, (), channel=granted)


def test_the_scope_self_lets_in_to_what_is_the_callers_own_and_to_nothing_else(
    servers: Servers, issuer: Issuer, method: Method
) -> None:
    own = bearer(issuer.token("ada", ("self",)))
    assert call(servers, method, own) == SCOPE_MISSING  # names nobody
    assert call(servers, method, own, request_of(method, "bob")) == SCOPE_MISSING
    if permission_of(method).own:
        assert is_let_in(servers, method, own, request_of(method, "ada"))
        assert call(servers, method, own, request_of(method, "ada", "bob")) == SCOPE_MISSING
        assert call(servers, method, own, request_of(method, "bob", "")) == SCOPE_MISSING


def test_self_is_declared_where_one_id_is_read_or_changed_and_nowhere_else() -> None:
    assert {method.name for method in GUARDED if permission_of(method).own} == {
        *("GetUser", "BatchGetUsers", "UpdateUser"),
        *("GetPreferences", "BatchGetPreferences", "UpdatePreferences"),
        *("GetAccount", "UpdateUserAndPreferences"),
        "GetBalance",
        *("LockReads", "LockResources", "CompareReads"),
    }


def test_only_what_belongs_to_subjects_by_its_contract_is_locked_by_self(servers: Servers, issuer: Issuer) -> None:
    own = bearer(issuer.token("ada", ("self",)))
    compare = method_of("CompareReads", "credits")
    for name, let_in in (("accounts/ada", True), ("entries/ada", False), ("ada", False), ("accounts/ada/x", False)):
        request = CompareReadsRequest(reads=[Read(resource=name)]).SerializeToString()
        assert (call(servers, compare, own, request) == SCOPE_MISSING) is not let_in, name


def test_who_only_reads_keeps_nobody_from_reading_and_locks_to_change_only_what_is_its_own(
    servers: Servers, issuer: Issuer
) -> None:
    lock = method_of("LockResources", "users")

    def is_refused(to_change: Sequence[str], *scopes: str) -> bool:
        request = LockResourcesRequest(to_read=["users/bob"], to_change=to_change).SerializeToString()
        return call(servers, lock, bearer(issuer.token("ada", scopes)), request) == SCOPE_MISSING

    assert not is_refused([], "users.read")
    assert is_refused(["users/ada"], "users.read")
    assert not is_refused(["users/ada"], "users.read", "users.write")
    assert not is_refused(["users/ada"], "users.read", "self")
    assert is_refused(["users/ada", "users/eve"], "users.read", "self")
    assert is_refused(["users/ada"], "self")  # as it reads another's
    assert is_refused(["users/ada"], "users.write")


def method_of(name: str, server: str) -> Method:
    (found,) = (method for method in GUARDED if (method.name, method.server) == (name, server))
    return found


def test_of_an_account_both_ids_must_be_the_callers_own(servers: Servers, issuer: Issuer) -> None:
    (update,) = (method for method in GUARDED if method.name == "UpdateUserAndPreferences")
    own = bearer(issuer.token("ada", ("self",)))
    message: Any = GetMessageClass(update.request)()
    message.user.user_id = "ada"
    assert call(servers, update, own, message.SerializeToString())[1] == ""  # as preferences.user_id may be empty
    message.preferences.user_id = "bob"
    assert call(servers, update, own, message.SerializeToString())[1] == "SCOPE_MISSING"
    message.user.user_id, message.preferences.user_id = "", "ada"
    assert call(servers, update, own, message.SerializeToString())[0] is not grpc.StatusCode.OK
    message.user.user_id, message.preferences.user_id = "bob", "ada"
    assert call(servers, update, own, message.SerializeToString())[1] == "SCOPE_MISSING"


def test_health_asks_nobody_and_what_a_server_does_not_have_only_those_who_are_known_are_told(
    servers: Servers, issuer: Issuer
) -> None:
    for method in OPEN:
        assert is_let_in(servers, method, ())
        assert is_let_in(servers, method, bearer("not-a-token"))
    for channel in servers.channels.values():
        bad = Call("/no.Such/Method", [b""], bearer("not-a-token"))
        assert send(channel, bad).code is grpc.StatusCode.UNAUTHENTICATED
        known = Call("/no.Such/Method", [b""], bearer(issuer.token("ada")))
        assert send(channel, known).code is grpc.StatusCode.UNIMPLEMENTED
