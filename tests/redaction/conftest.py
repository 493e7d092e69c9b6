"""A suite with careless handlers that was sent personal data in all ways, and what it printed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from handfast.preferences.v1.preferences_pb2 import CreatePreferenceDefinitionRequest, PreferenceDefinition
from handfast.server.cli.ports import free_first_port
from handfast.server.process.settings import METRICS_PORT_OFFSET, sqlite_url
from tests.cli.processes import CLEAN, Process, stop_process
from tests.databases.postgresql import DATABASES, postgresql
from tests.project.commands import ROOT
from tests.redaction import samples
from tests.redaction.calls import METHODS, Caller, Printed
from tests.tracing.receiver import receiving


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Printed:
    folder = tmp_path_factory.mktemp("redaction")
    printed = Printed(request.param)
    with contextlib.ExitStack() as stack:
        urls = {f"HANDFAST_{name.upper()}_DATABASE_URL": sqlite_url(folder / name) for name in DATABASES}
        if printed.database == "postgresql":
            urls = stack.enter_context(postgresql()).create_databases()
        receiver = stack.enter_context(receiving())
        process = start(folder, {**urls, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver.address}"})
        stack.callback(stop_process, process)
        suite = stack.enter_context(process.connect())
        for key, kind in samples.DEFINED.items():
            definition = PreferenceDefinition(key=key, type=kind)
            suite.preferences.CreatePreferenceDefinition(CreatePreferenceDefinitionRequest(definition=definition))
        caller = Caller(suite, printed)
        with ThreadPoolExecutor(len(METHODS)) as threads:
            list(threads.map(caller.call, METHODS))
            for url in urls.values():
                refuse_all(url)
            list(threads.map(caller.be_refused_by_the_database, METHODS))
        printed.metrics = "".join(scraped(process))
        stop_process(process)  # exports the last of what is traced
        printed.traces, printed.spans = receiver.text, receiver.spans
    printed.log = process.stderr
    return printed


def start(folder: Path, urls: dict[str, str]) -> Process:
    first_port = free_first_port()
    arguments = ("up", "--data-dir", str(folder), "--first-port", str(first_port), "--log-level", "debug", "--tracing")
    with (folder / "stderr").open("w") as stderr:
        popen = subprocess.Popen(
            [sys.executable, "-m", "tests.redaction.serve", *arguments],
            cwd=ROOT,
            env={**CLEAN, **urls},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    process = Process(popen, folder / "stderr", first_port)
    assert process.read_until("ready").endswith("ready\n"), process.stderr
    return process


def refuse_all(url: str) -> None:
    """From now on the database takes no row, and says which; SQLite does not say."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")  # servers are at work there, and must not be held up
    with engine.connect() as connection:
        for table in sa.inspect(engine).get_table_names():
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"ALTER TABLE {table} ADD CONSTRAINT refused CHECK (false) NOT VALID")
            else:
                refuse = "BEGIN SELECT RAISE(ABORT, 'refused'); END"
                connection.exec_driver_sql(f"CREATE TRIGGER refused_{table} BEFORE INSERT ON {table} {refuse}")
    engine.dispose()


def scraped(process: Process) -> Iterator[str]:
    for address in process.addresses.values():
        host, port = address.split(":")
        with urllib.request.urlopen(f"http://{host}:{int(port) + METRICS_PORT_OFFSET}/metrics") as reply:
            yield reply.read().decode()
