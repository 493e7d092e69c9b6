"""`handfast up`: checks what can be checked, starts the whole suite, says where it is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from handfast.server.cli.data_dir import check_none_is_missing, kept, note_made
from handfast.server.cli.installed import missing, why_missing
from handfast.server.cli.ports import why_not_free
from handfast.server.cli.settings import (
    DATA_DIR,
    FIRST_PORT,
    SERVERS,
    UP_SETTINGS,
    port_of,
    read_server_settings,
)
from handfast.server.cli.supervisor import HANDFAST, Program, supervise
from handfast.server.process.command import Failure
from handfast.server.process.flags import read
from handfast.server.process.notify import READY, notify
from handfast.server.process.processors import spread
from handfast.server.process.settings import (
    METRICS_PORT_OFFSET,
    SettingsError,
    database_name,
    environment_variable,
    flag,
    sqlite_file,
    sqlite_url,
    without_password,
)
from handfast.server.suite import SuiteSettings


def run(flags: Mapping[str, Any]) -> int:
    if lacking := missing():
        raise Failure(why_missing(lacking))
    values = read(UP_SETTINGS, flags, os.environ)
    first_port = values.pop("first_port", FIRST_PORT)
    data_dir = Path(values.pop("data_dir", DATA_DIR)).absolute()
    try:
        for server in SERVERS:
            sqlite_file(sqlite_url(data_dir / _file(server)))
    except ValueError as error:
        raise SettingsError("up", "data_dir", str(error)) from None

    environment = _environment(data_dir, first_port, values)
    # Read here as the servers will read it, so that a mistake is reported once, before anything runs.
    suite = [read_server_settings(server, {}, environment) for server in SERVERS]
    from_environment = [variable for variable in map(_database_variable, SERVERS) if os.environ.get(variable)]
    files = [_file(server) for server in SERVERS if _database_variable(server) not in from_environment]

    def on_ready() -> None:
        if files:
            note_made(data_dir, files)
        _announce(suite)

    with contextlib.nullcontext() if len(from_environment) == len(SERVERS) else kept(data_dir):
        check_none_is_missing(data_dir, files)
        _check_ports(suite)
        if from_environment:
            click.echo(f"Databases are taken from the environment: {', '.join(from_environment)}.")
        return supervise(
            [
                Program(each.name, [*HANDFAST, "serve", each.name], environment, NEEDS.get(each.name, ()), AGAIN)
                for each in suite
            ],
            grace=suite[0].grace,
            on_ready=on_ready,
        )


NEEDS = {"accounts": ("users", "preferences")}
AGAIN = {environment_variable("up", "database_must_exist"): "true"}
"""What is added to the environment of a server that is restarted: by then it has made its database."""


def _database_variable(server: str) -> str:
    return environment_variable(server, "database_url")


def _file(server: str) -> str:
    return f"{database_name(server)}.sqlite3"


def _environment(data_dir: Path, first_port: int, common: Mapping[str, object]) -> dict[str, str]:
    """The settings of the servers, as environment variables: a flag would show a database password to every user of the
    machine. Databases and processors that the environment sets already are kept.
    """
    environment = dict(os.environ)
    processors = [environment_variable(server, "processor") for server in SERVERS]
    environment |= zip(processors, spread([environment.get(processor, "") for processor in processors]), strict=True)
    for server in SERVERS:
        port = port_of(server, first_port)
        database_url = _database_variable(server)
        environment |= {
            environment_variable(server, "listen"): f"127.0.0.1:{port}",
            environment_variable(server, "metrics_listen"): f"127.0.0.1:{port + METRICS_PORT_OFFSET}",
            environment_variable(server, f"{server}_address"): f"127.0.0.1:{port}",
            database_url: environment.get(database_url) or sqlite_url(data_dir / _file(server)),
        }
    environment |= {environment_variable("up", name): str(value) for name, value in common.items()}
    return environment


def _check_ports(suite: list[SuiteSettings]) -> None:
    for settings in suite:
        for what, address in (("", settings.listen), ("metrics of ", settings.metrics_listen)):
            if reason := why_not_free(address):
                other = f"{flag('first_port')} (or {environment_variable('up', 'first_port')}) says where else"
                raise Failure(f"cannot listen on {address} for {what}{settings.name}: {reason}; {other}")


def _announce(suite: list[SuiteSettings]) -> None:
    width = max(len(settings.name) for settings in suite)
    served = (f"{each.name:<{width}}  {each.listen}  metrics: http://{each.metrics_listen}/metrics" for each in suite)
    stored = (f"{each.name:<{width}}  {without_password(each.database_url)}" for each in suite)
    click.echo(
        "Handfast is up.\n\n"
        f"{_indented(served)}\n\n"
        "Its data:\n\n"
        f"{_indented(stored)}\n\n"
        "Try:\n\n"
        f"""  grpcurl -plaintext -d '{{"user": {{"email": "ada@example.com"}}}}' {suite[-1].listen} """
        "handfast.accounts.v1.AccountService/CreateAccount\n\n"
        "Ctrl-C stops it.\n"
        "ready"
    )
    notify(READY)


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
