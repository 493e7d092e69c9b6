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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from handfast.client import Suite, connect
from handfast.server.chassis import Database, Schema
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.data.schema import MARK
from handfast.server.cli.ports import free_first_port
from handfast.server.cli.settings import on_this_machine
from handfast.server.cli.temporary import environment_of_its_own, temporary_suite
from handfast.server.process.command import Failure
from handfast.server.process.settings import sqlite_url
from handfast.server.transactions import ParticipantSettings

_LOOK_EVERY_S = 0.02


@contextlib.contextmanager
def suite_with(**modules: str) -> Iterator[Suite]:
    """Starts the servers that these modules run, each a participant of the name that it is given by, as
    `python -m MODULE` does, and a suite that knows them; gives a client of it. All of them listen on free ports of this
    machine, keep their data in a temporary folder, and end with the block.

    Raises Failure, with what was logged, where one does not start.
    """
    first_port = free_first_port()
    accounts = on_this_machine(first_port)["accounts"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="handfast-")))
        participants = {
            name: stack.enter_context(_server(name, module, folder, accounts)) for name, module in modules.items()
        }
        suite = stack.enter_context(temporary_suite(first_port, participants))
        yield stack.enter_context(
            connect(suite["users"], suite["preferences"], suite["accounts"], participants=participants)
        )


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
def _server(name: str, module: str, folder: Path, accounts: str) -> Iterator[str]:
    """Runs one server. Gives its address."""
    variable = ParticipantSettings.variable
    environment = environment_of_its_own() | {
        variable(name, "listen"): "127.0.0.1:0",
        variable(name, "database_url"): sqlite_url(folder / f"{name}.sqlite3"),
        variable(name, "accounts_address"): accounts,
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
