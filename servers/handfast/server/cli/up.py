"""`handfast up`: checks what can be checked, starts the whole suite, says where it is."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from handfast.server.cli.errors import CommandError
from handfast.server.cli.ports import HIGHEST_FIRST_PORT, why_not_free
from handfast.server.cli.settings import (
    DATA_DIR,
    FIRST_PORT,
    SERVERS,
    UP_SETTINGS,
    port_of,
    read_server_settings,
)
from handfast.server.cli.supervisor import HANDFAST, Program, supervise
from handfast.server.process.flags import read
from handfast.server.process.notify import READY, notify
from handfast.server.process.processors import spread
from handfast.server.process.settings import (
    METRICS_PORT_OFFSET,
    SettingsError,
    database_name,
    environment_variable,
)
from handfast.server.suite import SuiteSettings


def run(arguments: argparse.Namespace) -> int:
    values = read("up", UP_SETTINGS, vars(arguments), os.environ)
    first_port = values.pop("first_port", FIRST_PORT)
    if not 1 <= first_port <= HIGHEST_FIRST_PORT:
        raise SettingsError("up", "first_port", f"must be from 1 to {HIGHEST_FIRST_PORT}, not {first_port}")
    data_dir = Path(values.pop("data_dir", DATA_DIR)).absolute()

    environment = _environment(data_dir, first_port, values)
    # Read here as the children will read it, so that a mistake is told once and before anything runs.
    suite = [read_server_settings(server, {}, environment) for server in SERVERS]
    _check_data_dir(data_dir)
    _check_ports(suite)
    return supervise(
        [
            Program(settings.name, [*HANDFAST, "serve", settings.name], environment, NEEDS.get(settings.name, ()))
            for settings in suite
        ],
        grace=suite[0].grace,
        on_ready=lambda: _announce(suite, data_dir),
    )


NEEDS = {"accounts": ("users", "preferences")}


def _environment(data_dir: Path, first_port: int, common: Mapping[str, object]) -> dict[str, str]:
    """What the servers are told; by environment, since a flag would show a database password to every user of the
    machine. A database or a processor that the environment names already, stays."""
    environment = dict(os.environ)
    processors = [environment_variable(server, "processor") for server in SERVERS]
    environment |= zip(processors, spread([environment.get(processor, "") for processor in processors]), strict=True)
    for server in SERVERS:
        port = port_of(server, first_port)
        database_url = environment_variable(server, "database_url")
        environment |= {
            environment_variable(server, "listen"): f"127.0.0.1:{port}",
            environment_variable(server, "metrics_listen"): f"127.0.0.1:{port + METRICS_PORT_OFFSET}",
            environment_variable(server, f"{server}_address"): f"127.0.0.1:{port}",
            database_url: environment.get(database_url) or f"sqlite:///{data_dir}/{database_name(server)}.sqlite3",
        }
    environment |= {environment_variable("up", name): str(value) for name, value in common.items()}
    return environment


def _check_data_dir(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir):
            pass
    except OSError as error:
        raise CommandError(f"cannot write to the data directory {data_dir}: {error.strerror}") from error


def _check_ports(suite: list[SuiteSettings]) -> None:
    for settings in suite:
        for what, address in (("", settings.listen), ("metrics of ", settings.metrics_listen)):
            if reason := why_not_free(address):
                raise CommandError(f"cannot listen on {address} for {what}{settings.name}: {reason}")


def _announce(suite: list[SuiteSettings], data_dir: Path) -> None:
    width = max(len(settings.name) for settings in suite)
    print("Handfast is up.\n")
    for settings in suite:
        print(f"  {settings.name:<{width}}  {settings.listen}  metrics: http://{settings.metrics_listen}/metrics")
    accounts = suite[-1].listen
    print(
        f"  {'data':<{width}}  {data_dir}\n\n"
        "Try:\n\n"
        f"""  grpcurl -plaintext -d '{{"user": {{"email": "ada@example.com"}}}}' {accounts} """
        "handfast.accounts.v1.AccountService/CreateAccount\n\n"
        "Ctrl-C stops it.\n"
        "ready",
        flush=True,
    )
    notify(READY)
