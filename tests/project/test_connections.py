"""docs/connections.md says of connections what client and servers do."""

from __future__ import annotations

from handfast.client import options
from handfast.server.chassis import connections
from handfast.server.chassis.operations.health import LIVENESS, READINESS
from handfast.server.process.settings import ServerSettings
from tests.project.commands import ROOT
from tests.project.readme import dangling_links

CONNECTIONS = ROOT / "docs" / "connections.md"
TEXT = " ".join(CONNECTIONS.read_text().split())


def test_times_are_those_of_the_code() -> None:
    settings = ServerSettings(name="users", listen="127.0.0.1:0")
    of_one, of_replicas = options.OF_ONE, options.OF_REPLICAS
    assert f"| after {of_replicas.time:g} s without a word from the server, calls or no calls |" in TEXT
    assert f"| after {of_replicas.timeout:g} s without an answer | calls go to the others" in TEXT
    assert of_replicas.max_pause == 1  # "try it again each second"
    assert f"| where it stands for one | after {of_one.time:g} s | after {of_one.timeout:g} s |" in TEXT
    assert f"after {connections.KEEPALIVE_TIME:g} s without a word from the client" in TEXT
    assert f"after {connections.KEEPALIVE_TIMEOUT:g} s without an answer | calls of that client" in TEXT
    assert f"allow a PING every {connections.MIN_PING_INTERVAL:g} s" in TEXT
    assert min(of_one.time, of_replicas.time) > connections.MIN_PING_INTERVAL
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
