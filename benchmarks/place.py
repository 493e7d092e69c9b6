"""Where the sides of a row are started: a folder, a database engine, and the processors that they may use."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import fill
from benchmarks.harness import Side
from benchmarks.wire import Credentials
from handfast.client import Suite as Client
from handfast.server.cli.dev.folder import CLIENT, SERVERS, DevCredentials, make
from handfast.server.process.settings import ServerSettings, sqlite_url
from tests.cli.processes import Process, suite_up
from tests.databases.postgresql import DATABASES, PostgreSQL, postgresql

USERS = 1000


class Security(Enum):
    """What a suite asks of those who call it, its own servers among them."""

    OPEN = "nothing"
    TLS = "a certificate"
    TOKENS = "a certificate, and a token where that is granted nothing"


@dataclass(frozen=True)
class Suite:
    """A suite that runs, with users `fill.user_id(0)` and on, the URLs of its databases by name, and what callers show
    it: None where everybody may call.
    """

    process: Process
    database_urls: Mapping[str, str]
    users: int
    credentials: Credentials | None

    def address(self, server: str) -> str:
        return self.process.addresses[server]

    def metrics_url(self, server: str) -> str:
        host, port = self.address(server).split(":")
        return f"{'https' if self.credentials else 'http'}://{host}:{int(port) + 100}/metrics"

    def user_id(self, number: int) -> str:
        """Of the nth call: all users in turn, so that no call meets what the one before it has not finished."""
        return fill.user_id(number % self.users)


@dataclass(frozen=True)
class Peer:
    """A process of a peer that is ready: what it printed to say so, and its ends of two pipes."""

    popen: subprocess.Popen[str]
    printed: tuple[str, ...]

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def address(self) -> str:
        return self.printed[0]

    @property
    def metrics_urls(self) -> tuple[str, ...]:
        return self.printed[1:]


class Place:
    """Starts what sides ask for, each once, and stops it all in the end. Where it is `pinned`, servers have one
    processor, and callers and PostgreSQL another; else the system, or `handfast up`, says what runs where.
    """

    def __init__(self, folder: Path, engine: str, pinned: bool, stack: ExitStack) -> None:
        self.engine = engine
        self._folder, self._stack = folder, stack
        usable = sorted(os.sched_getaffinity(0))
        self._servers_on, self.callers_on = ([usable[0]], [usable[-1]]) if pinned else (usable, usable)
        self._suites: dict[tuple[int, int, Security, str], Suite] = {}
        self._sides: dict[Callable[[Place], Side], Side] = {}

    def side(self, start: Callable[[Place], Side]) -> Side:
        if start not in self._sides:
            self._sides[start] = start(self)
        return self._sides[start]

    @cached_property
    def postgresql(self) -> PostgreSQL:
        with running_on(self.callers_on):
            server = self._stack.enter_context(postgresql())
            server.execute("ALTER SYSTEM SET max_prepared_transactions = 100", "ALTER SYSTEM SET max_connections = 500")
            server.stop()
            server.start()
            return server

    def suite(
        self, users: int = USERS, finished: int = 0, security: Security = Security.OPEN, traced: str = ""
    ) -> Suite:
        """With so many users, and so many transactions that have finished. `traced` is the share of calls that is
        recorded and exported; empty without tracing."""
        wanted = users, finished, security, traced
        if wanted not in self._suites:
            folder = self.new_folder()
            urls = self.new_databases(folder)
            settings: dict[str, str] = {}
            credentials = None
            if security is not Security.OPEN:
                made, credentials = self.new_credentials(security)
                settings = _settings(made, security)
            if traced:
                settings |= self._tracing(traced)
            with running_on(self._servers_on):
                process = self._stack.enter_context(suite_up(folder, variables(urls) | settings))
            fill.users(urls, users)
            fill.finished_transactions(urls, finished)
            self._suites[wanted] = Suite(process, urls, users, credentials)
        return self._suites[wanted]

    def _tracing(self, share: str) -> dict[str, str]:
        """As the suite's environment. What is exported takes a processor of the callers."""
        collector = self.peer("collector", on=self.callers_on)
        return {
            "HANDFAST_TRACING": "true",
            "OTEL_TRACES_SAMPLER_ARG": share,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.address}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",  # milliseconds, so that a turn exports what it has recorded
        }

    @cached_property
    def client(self) -> Client:
        """Of the suite that everybody may call."""
        return self._stack.enter_context(self.suite().process.connect())

    def new_credentials(self, security: Security) -> tuple[DevCredentials, Credentials]:
        """A folder of certificates and tokens, and what callers show of it."""
        made = make(self.new_folder() / "credentials")
        tls = ssl.create_default_context(cafile=made.ca)
        tls.load_cert_chain(made.certificate(CLIENT), made.key(CLIENT))
        tls.set_alpn_protocols(["h2"])
        token = made.token("admin").read_text().strip() if security is Security.TOKENS else ""
        return made, Credentials(tls, token)

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))

    def new_databases(self, folder: Path) -> dict[str, str]:
        """The URLs, by name, of databases that a suite may make its own."""
        if self.engine == "sqlite":
            return {name: sqlite_url(folder / f"{name}.sqlite3") for name in DATABASES}
        names = {name: f"{name}_{uuid.uuid4().hex}" for name in DATABASES}
        self.postgresql.execute(*(f"CREATE DATABASE {name}" for name in names.values()))
        return {name: self.postgresql.url(database) for name, database in names.items()}

    def peer(self, module: str, *arguments: str, on: Iterable[int] = ()) -> Peer:
        """A module of `benchmarks.peers`, as a process, by default on the processor of servers. Raises RuntimeError
        where it does not start."""
        with running_on(on or self._servers_on), (self._folder / f"{module}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.peers.{module}", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._stack.callback(_stop, process)
        assert process.stdout is not None
        if not (printed := process.stdout.readline().split()):
            raise RuntimeError(f"{module} did not start:\n{(self._folder / f'{module}.log').read_text()}")
        return Peer(process, tuple(printed))


def _stop(process: subprocess.Popen[Any]) -> None:
    process.kill()
    with process:
        pass


def variables(database_urls: Mapping[str, str]) -> dict[str, str]:
    """As the suite's environment."""
    return {f"HANDFAST_{name.upper()}_DATABASE_URL": url for name, url in database_urls.items()}


def _settings(made: DevCredentials, security: Security) -> dict[str, str]:
    """As the suite's environment."""
    settings = {name: value for server in SERVERS for name, value in made.of_server(server).items()}
    if security is Security.TLS:
        settings |= {ServerSettings.variable(server, "authentication"): "off" for server in SERVERS}
    return settings


@contextmanager
def running_on(processors: Iterable[int]) -> Iterator[None]:
    """Keeps this process, and what it starts meanwhile, to these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def count(url: str, statement: str) -> Callable[[], int]:
    """Asks a database for a number, on a connection that is kept."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")

    def ask() -> int:
        with engine.connect() as connection:
            return int(connection.exec_driver_sql(statement).scalar_one())

    return ask
