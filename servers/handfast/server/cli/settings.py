"""What the commands take: settings of servers, and where a suite is."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping, Sequence
from typing import Any

from handfast.server.process.addresses import MAX_PORT
from handfast.server.process.command import Failure
from handfast.server.process.config_file import CONFIG, ConfigFile, config_file
from handfast.server.process.flags import settings_of
from handfast.server.process.option import Setting, whole_number, yes_or_no
from handfast.server.process.settings import METRICS_PORT_OFFSET, SettingsError
from handfast.server.process.sources import Environment, Flags, Given, Source, read
from handfast.server.suite import DATABASES, FIRST_PORT, SuiteSettings, parse_participants

SERVERS = tuple(DATABASES)
HIGHEST_FIRST_PORT = MAX_PORT - METRICS_PORT_OFFSET - (len(SERVERS) - 1)
MOST_REPLICAS = METRICS_PORT_OFFSET // len(SERVERS)
"""Further ones would serve on the ports of others' metrics."""
DATA_DIR = "./handfast-data"
COORDINATOR = "accounts"
UP = "up"
"""The table of a file with what is for `handfast up` alone."""


def on_this_machine(first_port: int = FIRST_PORT) -> dict[str, str]:
    """The addresses of a suite whose ports start at `first_port`, by server."""
    return {server: f"127.0.0.1:{first_port + place}" for place, server in enumerate(SERVERS)}


def _first_port(value: str) -> int:
    port: int = whole_number(value)
    if not 1 <= port <= HIGHEST_FIRST_PORT:
        raise ValueError(f"must be from 1 to {HIGHEST_FIRST_PORT}, not {port}")
    return port


def _replicas(value: str) -> int:
    replicas: int = whole_number(value)
    if not 1 <= replicas <= MOST_REPLICAS:
        raise ValueError(f"must be from 1 to {MOST_REPLICAS}, not {replicas}")
    return replicas


_BY_NAME = {setting.name: setting for setting in settings_of(SuiteSettings, UP, "")}


def _first_port_setting(help: str) -> Setting:
    return Setting(SuiteSettings.variable(UP, "first_port"), "first_port", help, str(FIRST_PORT), _first_port, "PORT")


OF_UP = [
    Setting(
        SuiteSettings.variable(UP, "data_dir"),
        "data_dir",
        "folder of the SQLite files, made if absent",
        DATA_DIR,
        metavar="DIRECTORY",
    ),
    _first_port_setting(
        "users is served here, preferences and accounts on the next two ports, and metrics 100 ports above each"
    ),
    Setting(
        SuiteSettings.variable(UP, "replicas"),
        "replicas",
        "how many of each server; the second of each is on the three ports after those of the first, and so on",
        "1",
        _replicas,
        "NUMBER",
    ),
    Setting(
        SuiteSettings.variable(UP, "secure"),
        "secure",
        "run with mutual TLS and tokens, by credentials for development in dev-credentials of the data directory",
        "false",
        yes_or_no,
    ),
]
_OF_ALL_SERVERS = ("participant", "threads", "queue", "grace", "log_level", "tracing", "database_must_replicate")
OF_ALL_SERVERS = [_BY_NAME[name] for name in _OF_ALL_SERVERS]
"""Settings of the servers that `up` takes as flags, too."""
UP_SETTINGS = [CONFIG, *OF_UP, *OF_ALL_SERVERS]
_ADDRESSES = [_BY_NAME[f"{server}_address"] for server in SERVERS]
_FIRST_PORT = _first_port_setting("first port of a suite of `handfast up`")
ADDRESS_SETTINGS = [CONFIG, _FIRST_PORT, *_ADDRESSES]
PARTICIPANT_SETTING = _BY_NAME["participant"]


def read_of_up(flags: Mapping[str, Any]) -> dict[str, Given]:
    """What is given of `OF_UP`. Raises Failure."""
    table = _table_of_up(config_file(flags, os.environ))
    return read(OF_UP, [Flags(flags), Environment(os.environ), table])


def read_of_server(
    server: str, flags: Mapping[str, Any], names: Container[str] = frozenset(_BY_NAME)
) -> dict[str, Given]:
    """What is given of the settings of a server that are named, by default of all. Raises Failure."""
    settings = [each for each in settings_of(SuiteSettings, server, "") if each.name in names]
    return read(settings, [Flags(flags), Environment(os.environ), *_tables_of(server, config_file(flags, os.environ))])


def read_addresses(flags: Mapping[str, Any]) -> dict[str, str]:
    """The addresses that are given, by server; in a file, those by which accounts knows the others. Raises Failure."""
    from handfast.client.addresses import check_address  # takes grpc with it, which `up` and help do without

    file = config_file(flags, os.environ)
    places: list[list[Source]] = [
        [Flags(flags)],
        [Environment(os.environ)],
        [*_tables_of(COORDINATOR, file), _table_of_up(file)],
    ]
    found: dict[str, Given] = {}
    for place in places:
        found = read([_FIRST_PORT, *_ADDRESSES], place) | found
        if _FIRST_PORT.name in found:
            break  # it wins over addresses that are given in weaker places
    first_port = found.pop(_FIRST_PORT.name, None)
    given = on_this_machine(first_port.value) if first_port else {}
    for name, address in found.items():
        try:
            check_address(address.value, setting=address.names)
        except ValueError as error:
            raise Failure(str(error)) from error
        given[name.removesuffix("_address")] = address.value
    return given


def _table_of_up(file: ConfigFile) -> Source:
    table = file.table(UP)
    table.check(UP, OF_UP, "; what servers have stands at the top, or in the table of one")
    return table


def _tables_of(server: str, file: ConfigFile) -> Sequence[Source]:
    if server in SERVERS:  # which settings another one has is not known here
        file.check(server, settings_of(SuiteSettings, server, ""))
    return file.tables(server)


def read_participants(flags: Mapping[str, Any]) -> Mapping[str, str]:
    """The addresses of participants beside the suite's own, by name. Raises Failure."""
    given = read_of_server(COORDINATOR, flags, [PARTICIPANT_SETTING.name]).get(PARTICIPANT_SETTING.name)
    if given is None:
        return {}
    try:
        return parse_participants(given.value)
    except ValueError as error:
        raise SettingsError(given.names, str(error)) from None
