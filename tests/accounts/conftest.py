"""An accounts server in the tests' own process, beside the shared suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.client import Suite, connect
from handfast.server.accounts.server import build
from handfast.server.chassis.server import Server
from handfast.server.suite import SuiteSettings
from tests.accounts.accounts import StartAccounts, StartServer


@pytest.fixture
def accounts_server_with(addresses: dict[str, str], tmp_path: Path) -> StartServer:
    """Starts a second accounts server, with the shared users server and preferences at the address given."""

    def start(preferences: str) -> Server:
        settings = SuiteSettings(
            name="accounts",
            listen="127.0.0.1:0",
            database_url=f"sqlite:///{tmp_path}/transactions.sqlite3",
            users_address=addresses["users"],
            preferences_address=preferences,
            grace=0.5,
        )
        server: Server = build(settings)
        server.start()
        return server

    return start


@pytest.fixture
def accounts_with(addresses: dict[str, str], accounts_server_with: StartServer) -> Iterator[StartAccounts]:
    """A client of such a server, which is stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(preferences: str) -> Suite:
            server = accounts_server_with(preferences)
            stack.callback(server.stop)
            return stack.enter_context(connect(addresses["users"], preferences, server.address))

        yield start
