"""`handfast up`: checks what can be checked, starts the whole suite, says where it is."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from handfast.server.cli.data_dir import kept, note_made
from handfast.server.cli.dev.folder import CREDENTIALS, DevCredentials, made_or_make
from handfast.server.cli.installed import missing, why_missing
from handfast.server.cli.ports import why_not_free
from handfast.server.cli.settings import (
    DATA_DIR,
    HIGHEST_FIRST_PORT,
    OF_ALL_SERVERS,
    SERVERS,
    UP,
    on_this_machine,
    read_of_server,
    read_of_up,
    read_participants,
)
from handfast.server.cli.supervisor import HANDFAST, Program, supervise
from handfast.server.process.addresses import join_address, split_address
from handfast.server.process.command import Failure
from handfast.server.process.config_file import CONFIG, config_file
from handfast.server.process.flags import read_settings
from handfast.server.process.processors import spread
from handfast.server.process.secrets import OTHERS
from handfast.server.process.settings import (
    METRICS_PORT_OFFSET,
    SettingsError,
    flag,
    names,
    shown,
    sqlite_file,
    sqlite_url,
    without_password,
)
from handfast.server.process.sources import Flags, Given, read, values
from handfast.server.process.supervision import READY, notify
from handfast.server.suite import DATABASES, FIRST_PORT, SuiteSettings

NEEDS = {"accounts": ("users", "preferences")}
MIGRATE = {SuiteSettings.variable(UP, "migrate"): "true"}
AGAIN = {SuiteSettings.variable(UP, "database_must_exist"): "true"}
"""What is added to the environment of a server that is restarted: by then it has made its database."""


def run(flags: Mapping[str, Any]) -> int:
    if lacking := missing():
        raise Failure(why_missing(lacking))
    os.umask(OTHERS)  # for the data directory; the servers have it from here
    of_up = read_of_up(flags)
    own = values(of_up)
    data_dir = Path(own.get("data_dir", DATA_DIR)).absolute()
    # A database that the environment or a file names is used as it is; the others are files in the data directory.
    given = {server: read_of_server(server, flags) for server in SERVERS}
    files = {server: f"{name}.sqlite3" for server, name in DATABASES.items() if "database_url" not in given[server]}
    urls = {SuiteSettings.variable(each, "database_url"): sqlite_url(data_dir / file) for each, file in files.items()}
    for url in urls.values():
        try:
            sqlite_file(url)
        except ValueError as error:
            raise SettingsError(_names("data_dir", of_up), str(error)) from None

    replicas = own.get("replicas", 1)
    places = _places(of_up, replicas)
    addresses = _addresses(places)
    environment = {**os.environ, **addresses, **urls, **MIGRATE}
    # Servers read the file themselves; what flags say of them becomes variables, as these win over the file, too.
    for name, of_servers in read(OF_ALL_SERVERS, [Flags(flags)]).items():
        environment[SuiteSettings.variable(UP, name)] = shown(of_servers.value)
    if file := config_file(flags, os.environ).path:
        if not os.path.isfile(file):
            raise SettingsError(CONFIG.names, f"names {file}, which is no file that each server can read by itself")
        environment[CONFIG.variable] = os.path.abspath(file)
    credentials = None
    if own.get("secure"):
        credentials = made_or_make(data_dir / CREDENTIALS, tuple(read_participants(flags)))
        for server in SERVERS:
            environment |= credentials.of_server(server)
    programs = _programs(places, environment, given)
    # Read here as the servers will read it, so that a mistake is reported once, before anything runs.
    suite = [
        read_settings(SuiteSettings, place.server, place.address, {}, program.environment)
        for place, program in zip(places, programs, strict=True)
    ]
    _check_databases(suite, replicas, _names("replicas", of_up))

    def on_ready() -> None:
        if files:
            note_made(data_dir, files.values())
        _announce(suite, addresses, credentials)

    with kept(data_dir, files.values()) if files else contextlib.nullcontext():
        _check_peers(suite)
        _check_ports(suite)
        if elsewhere := [each["database_url"].place for each in given.values() if "database_url" in each]:
            click.echo(f"Databases are taken from {', '.join(dict.fromkeys(elsewhere))}.")
        if others := _passed_over(given, programs):
            click.echo(f"Passed over, as this command says it itself: {', '.join(others)}.")
        return supervise(programs, grace=max(each.grace for each in suite), on_ready=on_ready)


def _names(setting: str, given: Mapping[str, Given]) -> str:
    """What an error calls a setting of `up`."""
    return given[setting].names if setting in given else names(setting, SuiteSettings.variable(UP, setting))


@dataclass(frozen=True, slots=True)
class Place:
    """Of one replica; `name` is the one that it has in the log of restarts."""

    name: str
    server: str
    address: str


def _places(of_up: Mapping[str, Given], replicas: int) -> list[Place]:
    """Raises SettingsError where there are not so many ports."""
    first_port = of_up["first_port"].value if "first_port" in of_up else FIRST_PORT
    highest = HIGHEST_FIRST_PORT - len(SERVERS) * (replicas - 1)
    if first_port > highest:
        rule = f"must be from 1 to {highest} with {flag('replicas')} {replicas}, not {first_port}"
        raise SettingsError(_names("first_port", of_up), rule)
    return [
        Place(f"{server}-{number + 1}" if replicas > 1 else server, server, address)
        for number in range(replicas)
        for server, address in on_this_machine(first_port + number * len(SERVERS)).items()
    ]


def _addresses(places: Sequence[Place]) -> dict[str, str]:
    """The variables that say where the replicas of each server are."""
    return {
        SuiteSettings.variable(server, f"{server}_address"): ",".join(
            place.address for place in places if place.server == server
        )
        for server in SERVERS
    }


def _programs(
    places: Sequence[Place], environment: Mapping[str, str], given: Mapping[str, Mapping[str, Given]]
) -> list[Program]:
    """Their settings are in the environment: a flag would show a database password to every user of the machine. Each
    has a processor to itself, as far as these go, but where one is given.
    """
    configured = [given[place.server].get("processor") for place in places]
    processors = spread([processor.value if processor else "" for processor in configured])
    programs = []
    for place, processor in zip(places, processors, strict=True):
        host, port = split_address(place.address)
        its_own = {
            SuiteSettings.variable(place.server, "listen"): place.address,
            SuiteSettings.variable(place.server, "metrics_listen"): join_address(host, port + METRICS_PORT_OFFSET),
            SuiteSettings.variable(place.server, "processor"): processor,
        }
        needs = [other.name for other in places if other.server in NEEDS.get(place.server, ())]
        command = [*HANDFAST, "serve", place.server]
        programs.append(Program(place.name, command, {**environment, **its_own}, needs, AGAIN))
    return programs


def _passed_over(given: Mapping[str, Mapping[str, Given]], programs: Sequence[Program]) -> list[str]:
    """Where settings are given that the servers do not have as they are given."""
    places: dict[str, None] = {}
    for server, program in zip(SERVERS, programs, strict=False):  # of other replicas it is the same
        for name, each in given[server].items():
            variable = SuiteSettings.variable(server, name)
            text = program.environment.get(variable, "")
            if text not in ("", shown(each.value), os.environ.get(variable)):
                places[each.place] = None
    return list(places)


def _check_databases(suite: Sequence[SuiteSettings], replicas: int, called: str) -> None:
    """A file of SQLite is for one server. Raises SettingsError, in which the number of replicas is `called` so."""
    of_files = [each.variable(each.name, "database_url") for each in suite if each.database_url.startswith("sqlite")]
    if replicas > 1 and of_files:
        variables = ", ".join(dict.fromkeys(of_files))
        rule = f"must be 1, not {replicas}, where a database is a file of SQLite; name one of PostgreSQL by {variables}"
        raise SettingsError(called, rule)


def _check_ports(suite: Sequence[SuiteSettings]) -> None:
    for settings in suite:
        for what, address in (("", settings.listen), ("metrics of ", settings.metrics_listen)):
            if reason := why_not_free(address):
                other = f"{flag('first_port')} (or {SuiteSettings.variable('up', 'first_port')}) says where else"
                raise Failure(f"cannot listen on {address} for {what}{settings.name}: {reason}; {other}")


def _check_peers(suite: Sequence[SuiteSettings]) -> None:
    """That the servers can call each other by the certificates and tokens of the environment. Raises SettingsError."""
    for settings in suite:
        if settings.tls_certificate:
            settings.require(
                "peer_ca", settings.peer_ca, "is needed, as the servers call each other, and these take TLS"
            )
        why = f"is needed with {flag('peer_ca')}, as the servers call each other"
        settings.require("tls_certificate", settings.tls_certificate or not settings.peer_ca, why)
        known = settings.authentication != "enforce" or settings.peer_token or settings.certificate_grants
        why = f"or {flag('certificate_grants')} is needed, as the servers call each other, and have to be let in"
        settings.require("peer_token", known, why)


def _announce(suite: Sequence[SuiteSettings], addresses: Mapping[str, str], credentials: DevCredentials | None) -> None:
    width = max(map(len, SERVERS))
    served = [f"  {each.name:<{width}}  {each.listen}  metrics: {_metrics_url(each)}" for each in suite]
    stored = [f"  {each.name:<{width}}  {without_password(each.database_url)}" for each in suite[: len(SERVERS)]]
    accounts = suite[len(SERVERS) - 1]
    how = ["Try:"]
    if credentials:
        how = [
            "It takes TLS with certificates, and tokens, which are for development and not for production:",
            f"  {credentials.folder}",
            "Try, in another shell:",
            f"  . {shlex.quote(str(credentials.client_variables))}",
        ]
    else:
        files = ["HANDFAST_CERTIFICATE", "HANDFAST_KEY"] if accounts.tls_client_ca else []
        files += ["HANDFAST_TOKEN_FILE"] if _takes_tokens(accounts) else []
        how = [f"Try, where {' and '.join(files)} name the files of a caller:" if files else "Try:"]
        if accounts.tls_certificate:
            how.append(f"  export HANDFAST_CA={shlex.quote(os.path.abspath(accounts.peer_ca))}")
    call = f"""-d '{{"user": {{"email": "ada@example.com"}}}}' {accounts.listen}"""
    example = f"  {_grpcurl(accounts)} {call} handfast.accounts.v1.AccountService/CreateAccount"
    if len(suite) > len(SERVERS):
        how = [
            "Clients call the replicas in turn, once they know all of them:",
            "\n".join(f"  export {variable}={address}" for variable, address in addresses.items()),
            *how,
        ]
    blocks = ("Handfast is up.", "\n".join(served), "Its data:", "\n".join(stored), *how, example, "Ctrl-C stops it.")
    click.echo("\n\n".join(blocks) + "\nready")
    notify(READY)


def _grpcurl(settings: SuiteSettings) -> str:
    """grpcurl as it gets into such a server, by the variables from which clients take their credentials. It puts the
    token in by itself, as others can see a program's arguments."""
    grpcurl = 'grpcurl -cacert "$HANDFAST_CA"' if settings.tls_certificate else "grpcurl -plaintext"
    if settings.tls_client_ca:
        grpcurl += ' -cert "$HANDFAST_CERTIFICATE" -key "$HANDFAST_KEY"'
    if _takes_tokens(settings):
        grpcurl = f'TOKEN=$(cat "$HANDFAST_TOKEN_FILE") {grpcurl}'
        grpcurl += " -expand-headers -H 'authorization: Bearer ${TOKEN}'"
    return grpcurl


def _takes_tokens(settings: SuiteSettings) -> bool:
    return settings.authentication != "off" and settings.token_keys != ""


def _metrics_url(settings: SuiteSettings) -> str:
    return f"{'https' if settings.tls_certificate else 'http'}://{settings.metrics_listen}/metrics"
