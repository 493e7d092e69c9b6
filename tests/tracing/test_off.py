"""Without tracing nothing of OpenTelemetry is imported, and it need not be installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from handfast.client import aio, channel, connect
from handfast.server.process.settings import ServerSettings, SettingsError, sqlite_url
from tests.project.commands import ROOT, run, succeed

SERVE_A_CALL = """
import sys
from handfast.client import channel
from handfast.server.suite import SuiteSettings
from handfast.server.users.server import build
from handfast.users.v1.users_pb2 import CreateUserRequest, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub

settings = SuiteSettings(name="users", listen="127.0.0.1:0", database_url=sys.argv[1], migrate=True)
server = build(settings)
server.start()
with channel(server.address) as opened:
    UserServiceStub(opened).CreateUser(CreateUserRequest(user=User(email="ada@example.com")))
server.stop()
import handfast.client.aio, handfast.server.accounts.server, handfast.server.cli.main
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
MISSING = """
import sys
sys.modules["opentelemetry"] = None
"""


def test_a_server_and_a_client_import_nothing_of_it(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "users.sqlite3")
    assert succeed((sys.executable, "-c", SERVE_A_CALL, url), cwd=ROOT).splitlines()[-1] == "[]"


def test_they_work_where_it_is_not_installed(tmp_path: Path) -> None:
    succeed((sys.executable, "-c", MISSING + SERVE_A_CALL, sqlite_url(tmp_path / "users.sqlite3")), cwd=ROOT)


def test_a_server_says_in_one_line_what_to_install(tmp_path: Path) -> None:
    serve = f"{MISSING}from handfast.server.cli.main import main\nsys.exit(main())"
    done = run(
        *(sys.executable, "-c", serve, "serve", "users", "--tracing"),
        *("--database-url", sqlite_url(tmp_path / "users.sqlite3")),
        cwd=ROOT,
    )
    assert done.returncode == 2
    rule = "--tracing (or HANDFAST_TRACING) needs OpenTelemetry, which is not installed: pip install 'handfast[otel]'"
    assert done.stdout.splitlines()[-1] == f"handfast: users: {rule}"


@pytest.mark.parametrize("open_", [channel, aio.channel, connect], ids=["channel", "aio.channel", "connect"])
def test_a_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch, open_: Any) -> None:
    for name in ("handfast.client.tracing.channel", "handfast.client.tracing.spans"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(
        ValueError, match=r"tracing: needs OpenTelemetry; install it by: pip install 'handfast\[otel\]'"
    ):
        open_("localhost:1", tracing=True)


@pytest.mark.parametrize("open_", [channel, aio.channel, connect], ids=["channel", "aio.channel", "connect"])
def test_tracing_is_true_or_false_and_no_text(open_: Any) -> None:
    with pytest.raises(TypeError, match="tracing: must be True or False, not 'false'"):
        open_("localhost:1", tracing="false")


def test_the_rule_is_one_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handfast.server.process.settings.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="tracing"):
        ServerSettings(name="users", listen="127.0.0.1:0", tracing=True)
