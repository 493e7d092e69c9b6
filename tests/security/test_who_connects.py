"""Without a certificate that a server trusts, no method of any server is reached: not one call begins.

The methods come from the contracts, so that a new one is tried, too.
"""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import grpc
import pytest
from cryptography import x509

from handfast.users.v1 import users_pb2, users_pb2_grpc
from tests import http2
from tests.fuzz.calls import REQUEST_ID, Call, Outcome, send
from tests.fuzz.methods import Method
from tests.security.authority import HOUR, Authority, Files
from tests.security.issuer import Issuer, bearer
from tests.security.servers import EVERY_SCOPE, GRANTED, METHODS, SERVICES, Servers, credentials

KINDS = ("plain text", "no certificate", "another CA", "expired", "not yet valid")
_numbers = itertools.count()


@dataclass(frozen=True)
class Caller:
    """Who calls with these credentials: none for plain text."""

    channel: grpc.ChannelCredentials | None
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, authority: Authority, client: Files | None) -> Caller:
        tls = ssl.create_default_context(cafile=authority.file)
        tls.set_alpn_protocols(["h2"])
        if client is not None:
            tls.load_cert_chain(client.certificate, client.key)
        return cls(credentials(authority, client), tls)


@pytest.fixture(scope="module")
def callers(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Caller]:
    authority = servers.authority
    clients: Mapping[str, Files | None] = {
        "right": servers.client,
        "no certificate": None,
        "another CA": Authority(tmp_path_factory.mktemp("stranger")).client(),
        "expired": authority.client("late", lasts=-datetime.timedelta(minutes=1)),
        "not yet valid": authority.client("early", starts=HOUR, lasts=2 * HOUR),
    }
    callers = {kind: Caller.of(authority, client) for kind, client in clients.items()}
    return callers | {"plain text": Caller(None, None)}


@pytest.fixture(scope="module")
def token(issuer: Issuer) -> str:
    """One that may do everything: it must not stand in for a certificate."""
    return issuer.token("ada", EVERY_SCOPE)


def new_request_id() -> str:
    return f"connects-{next(_numbers)}"


def methods_of(server: str) -> Iterator[Method]:
    return (method for method in METHODS if method.server == server)


def sent_at_once(servers: Servers, server: str, caller: Caller, token: str) -> dict[str, bool]:
    """Whether the server answered, by the request id: a call of each method, each on a connection of its own."""
    answered = {}
    for method in methods_of(server):
        request_id = new_request_id()
        headers = [(REQUEST_ID.encode(), request_id.encode()), (b"authorization", f"Bearer {token}".encode())]
        at = servers.running[server].address
        answered[request_id] = http2.is_answered(at, method.path.encode(), b"", headers, caller.tls)
    return answered


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVICES)
def test_a_client_without_a_good_certificate_learns_only_that_nobody_is_there(
    servers: Servers, callers: Mapping[str, Caller], token: str, server: str, kind: str
) -> None:
    sent = []
    with servers.channel(server, callers[kind].channel) as channel:
        for method in methods_of(server):
            sent.append(request_id := new_request_id())
            metadata = (*bearer(token), (REQUEST_ID, request_id))
            outcome = send(channel, Call(method.path, [b""], metadata, held=method.held))
            nothing_of_the_server = Outcome(grpc.StatusCode.UNAVAILABLE, outcome.message, None, [], "", ())
            assert outcome == nothing_of_the_server, method
            assert "failed to connect" in outcome.message
    assert servers.seen.begun.isdisjoint(sent)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVICES)
def test_nor_does_one_call_begin_that_is_sent_before_the_server_has_answered(
    servers: Servers, callers: Mapping[str, Caller], token: str, server: str, kind: str
) -> None:
    """In TLS 1.3 a client may send as soon as it has shown its certificate, good or not. No gRPC client does."""
    sent = sent_at_once(servers, server, callers[kind], token)
    assert not any(sent.values())
    assert servers.seen.begun.isdisjoint(sent)


@pytest.mark.parametrize(
    "name",
    [x509.IPAddress(ipaddress.ip_address("10.0.0.1")), x509.UniformResourceIdentifier(f"{GRANTED}\0.example.org")],
    ids=["no name", "a name that goes on where another ends"],
)
def test_a_good_certificate_that_names_nobody_is_told_so(servers: Servers, name: x509.GeneralName) -> None:
    refused = refusal(servers, servers.authority.client("nameless", names=[name]))
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "The client certificate names nobody: " in str(refused.details())


def test_who_has_a_certificate_and_forgot_the_token_is_told_so(servers: Servers) -> None:
    refused = refusal(servers, servers.client)
    assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
    assert str(refused.details()).endswith(" The call has no token, and the client's certificate is not granted that.")


def refusal(servers: Servers, client: Files) -> grpc.Call:
    channel = servers.channel("users", credentials(servers.authority, client))
    with channel, pytest.raises(grpc.RpcError) as caught:
        users_pb2_grpc.UserServiceStub(channel).GetUser(users_pb2.GetUserRequest(user_id="ada"))
    assert isinstance(caught.value, grpc.Call)
    return caught.value


@pytest.mark.parametrize("server", SERVICES)
def test_with_a_good_one_every_call_is_answered(
    servers: Servers, callers: Mapping[str, Caller], token: str, server: str
) -> None:
    sent = sent_at_once(servers, server, callers["right"], token)
    assert all(sent.values())
    assert servers.seen.begun.issuperset(sent)
