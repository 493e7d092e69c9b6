"""One suite for all tests that only call it: real processes, started by `handfast up`.

It runs on SQLite and then on PostgreSQL, and every test that uses it runs on both. Tests share it, so each works on
users of its own (`tests.people`) and expects others to be there.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.request import getproxies_environment

import pytest

from handfast.client import Suite, connect, options
from handfast.server.accounts.server import build
from handfast.server.chassis.cancellation import Canceller
from handfast.server.chassis.server import Server
from handfast.server.cli import ports
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from tests.accounts.accounts import StartAccounts, StartServer
from tests.cli.processes import Process, suite_up
from tests.databases.postgresql import PostgreSQL, postgresql
from tests.workers import pytest_sessionfinish, pytest_testnodedown, share

__all__ = ["pytest_sessionfinish", "pytest_testnodedown"]

# A proxy of the environment is for what is elsewhere. Our client knows that; urllib and bare channels are told.
_DIRECT = ",".join(filter(None, [getproxies_environment().get("no"), "localhost", "127.0.0.1", "::1"]))
os.environ.update(no_proxy=_DIRECT, no_grpc_proxy=_DIRECT)
# All that tests start stops on SIGHUP and SIGINT, even where these were started by nohup, or by a shell with `&`.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
# No two workers choose the same port before either listens on it.
ports.FIRST_PORTS = share(ports.FIRST_PORTS)


def pytest_collection_finish() -> None:
    """What is there now stays to the end, so the collector need not look at it each time; a third of what the tests
    compute would be that."""
    gc.freeze()


@pytest.fixture
def canceller() -> Iterator[Canceller]:
    canceller = Canceller()
    canceller.start()
    yield canceller
    canceller.stop()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels that are made from now on take 0.4 s for all their attempts, not 3.3 s."""
    monkeypatch.setattr(options, "LONGEST_PAUSE", options.FIRST_PAUSE)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSQL]:
    """A PostgreSQL that tests share, each with databases of its own in it."""
    with postgresql() as server:
        yield server


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database_urls(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The variables that say where the servers' databases are; none where they are the suite's own files."""
    if request.param == "sqlite":
        yield {}
        return
    with postgresql() as server:
        yield server.create_databases()


@pytest.fixture(scope="session")
def running(database_urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The suite's supervisor. Its servers listen on `first_port` and the two after it."""
    with suite_up(tmp_path_factory.mktemp("running"), database_urls) as process:
        yield process


@pytest.fixture(scope="session")
def transactions_database_url(running: Process, database_urls: dict[str, str]) -> str:
    """The database of the shared coordinator."""
    return database_urls.get(
        "HANDFAST_TRANSACTIONS_DATABASE_URL", sqlite_url(running.errors.parent / "data" / "transactions.sqlite3")
    )


@pytest.fixture(scope="session")
def addresses(running: Process) -> dict[str, str]:
    names = ("users", "preferences", "accounts")
    return {name: f"127.0.0.1:{running.first_port + offset}" for offset, name in enumerate(names)}


@pytest.fixture(scope="session")
def client(addresses: dict[str, str]) -> Iterator[Suite]:
    """A client of the shared suite."""
    with connect(addresses["users"], addresses["preferences"], addresses["accounts"]) as suite:
        yield suite


@pytest.fixture
def accounts_server_with(addresses: dict[str, str], tmp_path: Path) -> StartServer:
    """Starts a second accounts server, in the tests' own process, with the shared users server and preferences at the
    address given.
    """

    def start(preferences: str) -> Server:
        settings = SuiteSettings(
            name="accounts",
            listen="127.0.0.1:0",
            database_url=sqlite_url(tmp_path / "transactions.sqlite3"),
            migrate=True,
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
