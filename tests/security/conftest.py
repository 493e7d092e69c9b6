from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import grpc
import pytest

from handfast.server.chassis.call import Call, Method, Pool
from handfast.server.chassis.errors import NotAuthenticated
from handfast.server.chassis.logs.writer import CallLog
from handfast.server.chassis.security.authenticator import Authenticator
from handfast.server.chassis.security.identity import Identity
from handfast.server.process.settings import ServerSettings
from tests.eventually import eventually
from tests.security.authority import Authority
from tests.security.enforced import Place, suite
from tests.security.issuer import Issuer, bearer
from tests.security.servers import Servers, started

METHOD = Method(
    "/handfast.test.Service/Get", "handfast.test.Service", "Get", "unary", "handfast.test", Pool("calls", 1)
)


class Connection:
    """What an authenticator asks of a call's context: the certificate of the client, in PEM."""

    def __init__(self, certificate: bytes | None) -> None:
        self._certificate = certificate

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        known: dict[str, Sequence[bytes]] = {"transport_security_type": [b"ssl"]}
        return known if self._certificate is None else known | {"x509_pem_cert": [self._certificate]}


def server_settings(**settings: Any) -> ServerSettings:
    return ServerSettings(name="test", listen="127.0.0.1:0", **settings)


def authenticate(
    authenticator: Authenticator,
    token: str | None = None,
    *,
    metadata: Sequence[tuple[str, str | bytes]] = (),
    certificate: bytes | None = None,
) -> Identity:
    """Whom the authenticator takes a caller with this token, metadata and certificate for."""
    entries = (*metadata, *(() if token is None else bearer(token)))
    call = Call(METHOD, METHOD.path, entries)
    return authenticator.authenticate(call, cast(grpc.ServicerContext, Connection(certificate)))


def refusal(authenticator: Authenticator, token: str | None = None, **more: Any) -> NotAuthenticated:
    with pytest.raises(NotAuthenticated) as caught:
        authenticate(authenticator, token, **more)
    return caught.value


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A suite that demands tokens, of one module of tests."""
    with suite(tmp_path_factory.mktemp("place")) as (client, servers):
        yield client, {name: server.address for name, server in servers.items()}


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def servers(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """One of each kind, shared by tests that only call them."""
    with started(tmp_path_factory.mktemp("servers"), issuer) as servers:
        yield servers


class Lines:
    """What is logged."""

    def __init__(self) -> None:
        self.all: list[bytes] = []

    def write(self, line: bytes, _places: int = 0) -> None:
        self.all.append(line)

    def of(self, request_id: str) -> dict[str, Any]:
        """The audit line of a call, without what every line has. Its call line comes before it."""
        found = eventually(lambda: [line for line in self._about(request_id) if line["event"] == "audit"])
        assert found is not None
        assert len(found) == 1
        common = ("timestamp", "level", "event", "service", "peer", "grpc.service", "request_id")
        return {name: value for name, value in found[0].items() if name not in common}

    def none_of(self, request_id: str) -> bool:
        """Whether a call has no audit line. To be asked when a later call has one."""
        return [line["event"] for line in self._about(request_id)] == ["call"]

    def _about(self, request_id: str) -> list[dict[str, Any]]:
        as_logged = json.dumps(request_id).encode()
        named = [line for line in list(self.all) if as_logged in line]
        return [line for line in map(json.loads, named) if line.get("request_id") == request_id]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    lines = Lines()
    monkeypatch.setattr(CallLog, "writer", lines)
    return lines
