"""docs/connections.md says of connections what client and servers do."""

from __future__ import annotations

from handfast.client import arguments, options
from handfast.server.chassis import connections
from handfast.server.chassis.operations.health import LIVENESS, READINESS
from handfast.server.process.settings import ServerSettings
from tests.project.commands import ROOT
from tests.project.readme import dangling_links

CONNECTIONS = ROOT / "docs" / "connections.md"
TEXT = " ".join(CONNECTIONS.read_text().split())


def test_times_are_those_of_the_code() -> None:
    settings = ServerSettings(name="users", listen="127.0.0.1:0")
    soon, late = (options.keepalive_on_chassis(each) for each in ("users:50051", "127.0.0.1:50051"))
    assert late == options.DEFAULT_KEEPALIVE
    assert f"| after {soon:g} s without a word from the server, calls or no calls | after {soon:g} s without" in TEXT
    assert f"| after {late:g} s | after {late:g} s |" in TEXT
    assert f"`keepalive_seconds`, which is {late:g}" in TEXT
    assert dict(options.plain("users:50051"))["grpc.max_reconnect_backoff_ms"] == 1000  # "try it again each second"
    assert f"after {connections.KEEPALIVE_TIME:g} s without a word from the client" in TEXT
    assert f"after {connections.KEEPALIVE_TIMEOUT:g} s without an answer | calls of that client" in TEXT
    assert f"allow a PING every {connections.MIN_PING_INTERVAL:g} s" in TEXT
    assert soon > connections.MIN_PING_INTERVAL == arguments.MIN_KEEPALIVE
    assert f"`HANDFAST_MAX_CONNECTION_AGE`, {settings.max_connection_age:g})" in TEXT
    assert f"`HANDFAST_MAX_CONNECTION_AGE_GRACE`, {settings.max_connection_age_grace:g})" in TEXT
    assert f"`HANDFAST_MAX_CONNECTIONS`, {settings.max_connections:,})" in TEXT


def test_names_are_those_of_the_code() -> None:
    assert f"| `{LIVENESS}` |" in TEXT
    assert f"| `{READINESS}`, and the empty name |" in TEXT
    assert f"service: {LIVENESS}}}" in TEXT
    assert f"service: {READINESS}}}" in TEXT


def test_links_lead_somewhere() -> None:
    assert dangling_links(CONNECTIONS) == []
