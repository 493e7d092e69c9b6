"""What the commands take: settings of servers, and where a suite is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from handfast.server.process.addresses import MAX_PORT
from handfast.server.process.command import Failure
from handfast.server.process.flags import Setting, read, settings_of, whole_number, yes_or_no
from handfast.server.process.settings import METRICS_PORT_OFFSET, SettingsError, flag
from handfast.server.suite import DATABASES, FIRST_PORT, SuiteSettings, parse_participants

SERVERS = tuple(DATABASES)
HIGHEST_FIRST_PORT = MAX_PORT - METRICS_PORT_OFFSET - (len(SERVERS) - 1)
MOST_REPLICAS = METRICS_PORT_OFFSET // len(SERVERS)
"""Further ones would serve on the ports of others' metrics."""
DATA_DIR = "./handfast-data"


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


_BY_NAME = {setting.name: setting for setting in settings_of(SuiteSettings, "up", "")}


def _first_port_setting(help: str) -> Setting:
    return Setting(SuiteSettings.variable("up", "first_port"), "first_port", help, str(FIRST_PORT), _first_port, "PORT")


UP_SETTINGS = [
    Setting(
        SuiteSettings.variable("up", "data_dir"),
        "data_dir",
        "folder of the SQLite files, made if absent",
        DATA_DIR,
        metavar="DIRECTORY",
    ),
    _first_port_setting(
        "users is served here, preferences and accounts on the next two ports, and metrics 100 ports above each"
    ),
    Setting(
        SuiteSettings.variable("up", "replicas"),
        "replicas",
        "how many of each server; the second of each is on the three ports after those of the first, and so on",
        "1",
        _replicas,
        "NUMBER",
    ),
    Setting(
        SuiteSettings.variable("up", "secure"),
        "secure",
        "run with mutual TLS and tokens, by credentials for development in dev-credentials of the data directory",
        "false",
        yes_or_no,
    ),
    *(_BY_NAME[name] for name in ("participant", "threads", "queue", "grace", "log_level", "tracing")),
]
ADDRESS_SETTINGS = [
    _first_port_setting("first port of a suite of `handfast up`"),
    *(_BY_NAME[f"{server}_address"] for server in SERVERS),
]
PARTICIPANT_SETTING = _BY_NAME["participant"]


def read_addresses(flags: Mapping[str, Any]) -> dict[str, str]:
    """The addresses that are given, by server. Raises Failure."""
    from handfast.client.addresses import check_address  # takes grpc with it, which `up` and help do without

    # A first port that is given as a flag wins over variables, and a server's own address over a first port.
    values = read(ADDRESS_SETTINGS, flags, {} if flags["first_port"] else os.environ)
    given = on_this_machine(values.pop("first_port")) if "first_port" in values else {}
    for name, address in values.items():
        try:
            check_address(address, setting=f"{flag(name)} (or {_BY_NAME[name].variable})")
        except ValueError as error:
            raise Failure(str(error)) from error
        given[name.removesuffix("_address")] = address
    return given


def read_participants(flags: Mapping[str, Any]) -> Mapping[str, str]:
    """The addresses of participants beside the suite's own, by name. Raises Failure."""
    given = read([PARTICIPANT_SETTING], flags, os.environ).get(PARTICIPANT_SETTING.name, ())
    try:
        return parse_participants(given)
    except ValueError as error:
        raise SettingsError(PARTICIPANT_SETTING.name, PARTICIPANT_SETTING.variable, str(error)) from None
