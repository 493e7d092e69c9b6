"""All servers that there are contracts of, those of the examples too, with mutual TLS and tokens: what each serves, and
one of each that runs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc_interceptor
import pytest
import service as postage
from credits import service as credits
from credits.v1 import credits_pb2
from google.protobuf.descriptor import ServiceDescriptor
from postage.v1 import postage_pb2

from handfast.chassis.v1 import options_pb2
from handfast.server.accounts.server import build as build_accounts
from handfast.server.chassis.server import Server
from handfast.server.preferences.server import build as build_preferences
from handfast.server.process.settings import ServerSettings, sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.transactions import ParticipantSettings
from handfast.server.users.server import build as build_users
from tests.fuzz import methods
from tests.fuzz.calls import REQUEST_ID
from tests.fuzz.methods import LOCKS, OPERATIONS, PARTICIPANT, methods_of
from tests.security.authority import Authority, Files
from tests.security.issuer import Issuer

BUILD: Mapping[str, tuple[Callable[[Any], Server], type[ServerSettings]]] = {
    "users": (build_users, SuiteSettings),
    "preferences": (build_preferences, SuiteSettings),
    "accounts": (build_accounts, SuiteSettings),
    "credits": (credits.build, ParticipantSettings),
    "postage": (postage.build, ServerSettings),
}
SERVICES: Mapping[str, Sequence[ServiceDescriptor]] = {
    **methods.SERVICES,
    "credits": (credits_pb2.DESCRIPTOR.services_by_name["CreditsService"], LOCKS, PARTICIPANT, *OPERATIONS),
    "postage": (postage_pb2.DESCRIPTOR.services_by_name["PostageService"], *OPERATIONS),
}
"""What each server serves; a test compares it with what the servers themselves say."""

METHODS = methods_of(SERVICES)
OPEN = [method for method in METHODS if method.service.startswith("grpc.")]
"""Those that ask nobody who they are."""
GUARDED = [method for method in METHODS if method not in OPEN]
EVERY_SCOPE = {
    scope.replace("{server}", method.server)
    for method in GUARDED
    for scope in method.descriptor.GetOptions().Extensions[options_pb2.permission].scopes
}
REVOKED = "revoked-1"
"""The id of a token that is revoked."""
GRANTED = "spiffe://handfast.test/granted"
"""The name of a certificate that is granted every scope."""


class Seen(grpc_interceptor.ServerInterceptor):
    """What has become of calls in the servers.

    begun    the request ids of those that have reached one, whether or not they were let in
    ran      the paths of those that were let in, as their handlers begin
    """

    def __init__(self) -> None:
        self.begun: set[object] = set()
        self.ran: list[str] = []

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        self.begun.update(value for key, value in handler_call_details.invocation_metadata if key == REQUEST_ID)
        return super().intercept_service(continuation, handler_call_details)  # type: ignore[no-untyped-call]

    def intercept(self, method: Any, request_or_iterator: Any, context: grpc.ServicerContext, method_name: str) -> Any:
        self.ran.append(method_name)
        return method(request_or_iterator, context)


@dataclass(frozen=True)
class Servers:
    """One of each. They are granted nothing at each other, so that a call which was let in can end with the refusal of
    another server."""

    running: Mapping[str, Server]
    authority: Authority
    client: Files
    """The certificate of a caller, which is granted nothing."""
    channels: Mapping[str, grpc.Channel]
    """With that certificate."""
    seen: Seen

    def channel(self, server: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
        address = self.running[server].address
        options = [("grpc.use_local_subchannel_pool", 1)]  # or channels to the same address would share a connection
        if credentials is None:
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address, credentials, options)


def credentials(authority: Authority, client: Files | None) -> grpc.ChannelCredentials:
    pair = (None, None) if client is None else (client.key.read_bytes(), client.certificate.read_bytes())
    return grpc.ssl_channel_credentials(authority.pem, *pair)


def _watched(begin: Callable[..., None], seen: Seen) -> Callable[..., None]:
    """`begin` of a server, with `seen` before the interceptors that it has."""

    def begin_watched(
        server: Server, *args: Any, interceptors: Sequence[grpc.ServerInterceptor] = (), **more: Any
    ) -> None:
        begin(server, *args, interceptors=[seen, *interceptors], **more)

    return begin_watched


@contextlib.contextmanager
def started(folder: Path, issuer: Issuer) -> Iterator[Servers]:
    authority, seen = Authority(folder), Seen()
    own, client = authority.server(), authority.client()
    (folder / "revoked").write_text(f"{REVOKED}\n")
    (folder / "grants.toml").write_text(f'[grants]\n"{GRANTED}" = {sorted(EVERY_SCOPE)}\n')
    common = issuer.settings(folder) | {
        "tls_certificate": os.fspath(own.certificate),
        "tls_key": os.fspath(own.key),
        "tls_client_ca": os.fspath(authority.file),
        "peer_ca": os.fspath(authority.file),
        "revoked_tokens": str(folder / "revoked"),
        "certificate_grants": str(folder / "grants.toml"),
    }
    running: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:
        watching = stack.enter_context(pytest.MonkeyPatch.context())
        watching.setattr(Server, "__init__", _watched(Server.__init__, seen))
        for name, (build, settings) in BUILD.items():
            places: dict[str, Any] = {f"{other}_address": server.address for other, server in running.items()}
            places |= {"database_url": sqlite_url(folder / f"{name}.sqlite3"), "migrate": True}
            fields = settings.__dataclass_fields__
            own_places = {key: value for key, value in places.items() if key in fields}
            server = build(settings(name=name, listen="127.0.0.1:0", grace=0.5, **common, **own_places))
            server.start()
            stack.callback(server.stop)
            running[name] = server
        servers = Servers(running, authority, client, channels := {}, seen)
        for name in running:
            channels[name] = stack.enter_context(
                contextlib.closing(servers.channel(name, credentials(authority, client)))
            )
        yield servers
