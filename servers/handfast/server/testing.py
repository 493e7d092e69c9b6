"""For the tests of a service that takes part in transactions: a suite around it, all in processes of their own.

with suite_with(library="library") as suite:
    suite.stub(LibraryServiceStub, "library").GetBook(…)
    with suite.transaction() as tx:
        …
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from handfast.client import TLS, Suite, connect
from handfast.server.chassis import Database, Schema
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.data.schema import MARK
from handfast.server.cli.dev.folder import CLIENT, CREDENTIALS, DevCredentials, make
from handfast.server.cli.ports import free_first_port
from handfast.server.cli.settings import on_this_machine
from handfast.server.cli.temporary import environment_of_its_own, temporary_suite
from handfast.server.process.command import Failure
from handfast.server.process.settings import sqlite_url
from handfast.server.transactions import ParticipantSettings

_LOOK_EVERY_S = 0.02
_TOKEN_SECONDS = 3600


@contextlib.contextmanager
def suite_with(**modules: str) -> Iterator[Suite]:
    """Starts the servers that these modules run, each a participant of the name that it is given by, as
    `python -m MODULE` does, and a suite that knows them; gives a client of it. All of them listen on free ports of this
    machine, keep their data in a temporary folder, and end with the block.

    Raises Failure, with what was logged, where one does not start.
    """
    with contextlib.ExitStack() as stack:
        suite, participants = stack.enter_context(_started(modules, None))
        yield stack.enter_context(
            connect(suite["users"], suite["preferences"], suite["accounts"], participants=participants)
        )


@contextlib.contextmanager
def secure_suite_with(**modules: str) -> Iterator[Callable[..., Suite]]:
    """The same with mutual TLS and tokens, as by `handfast up --secure`. Gives a function that makes a client with the
    token of somebody: `connect_as("ada", "self", "transactions.run")` takes a subject and scopes. Its clients are
    closed at the end of the block.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="handfast-")))
        credentials = make(folder / CREDENTIALS, tuple(modules))
        suite, participants = stack.enter_context(_started(modules, credentials))
        tls = TLS(credentials.ca, credentials.certificate(CLIENT), credentials.key(CLIENT))

        def connect_as(subject: str, *scopes: str) -> Suite:
            token = credentials.issue(subject, scopes, _TOKEN_SECONDS)
            addresses = (suite["users"], suite["preferences"], suite["accounts"])
            return stack.enter_context(connect(*addresses, participants=participants, tls=tls, token=token))

        yield connect_as


@contextlib.contextmanager
def _started(
    modules: Mapping[str, str], credentials: DevCredentials | None
) -> Iterator[tuple[Mapping[str, str], Mapping[str, str]]]:
    """Gives the addresses of the suite's servers, and those of the modules' servers, by name."""
    first_port = free_first_port()
    accounts = on_this_machine(first_port)["accounts"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="handfast-")))
        participants = {
            name: stack.enter_context(_server(name, module, folder, accounts, credentials))
            for name, module in modules.items()
        }
        data_dir = credentials.folder.parent if credentials else None
        secure = credentials is not None
        suite = stack.enter_context(temporary_suite(first_port, participants, data_dir=data_dir, secure=secure))
        yield suite, participants


def schema_differences(schema: Schema, metadata: sa.MetaData) -> list[Any]:
    """What the tables of `metadata` have and those do not that the migrations make, or the other way round, as
    `alembic.autogenerate.compare_metadata` has it; empty where they agree. It looks on SQLite, in a temporary file.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="handfast-"))
        database = stack.enter_context(contextlib.closing(Database(sqlite_url(Path(folder, "new.sqlite3")))))
        upgrade(database, schema)
        connection = stack.enter_context(database.read())
        options = {"version_table": schema.version_table, "include_name": lambda name, *_: name != MARK.name}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


@contextlib.contextmanager
def _server(name: str, module: str, folder: Path, accounts: str, credentials: DevCredentials | None) -> Iterator[str]:
    """Runs one server. Gives its address."""
    variable = ParticipantSettings.variable
    environment = environment_of_its_own() | {
        variable(name, "listen"): "127.0.0.1:0",
        variable(name, "database_url"): sqlite_url(folder / f"{name}.sqlite3"),
        variable(name, "migrate"): "true",
        variable(name, "accounts_address"): accounts,
        **(credentials.of_server(name) if credentials else {}),
    }
    log = folder / f"{name}.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=stderr,
            stderr=stderr,
            start_new_session=True,
        )
    assert process.stdin
    try:
        while (address := _address(log)) is None:
            if process.poll() is not None:
                raise Failure(f"{module} did not start:\n{log.read_text()}")
            time.sleep(_LOOK_EVERY_S)
        yield address
    finally:
        process.stdin.close()  # which asks it to stop
        process.wait()


def _address(log: Path) -> str | None:
    """Where a server listens, once its log says so."""
    for line in log.read_text().splitlines(keepends=True):
        if line.startswith("{") and line.endswith("\n"):
            record = json.loads(line)
            if record["event"] == "serving":
                return str(record["address"])
    return None
