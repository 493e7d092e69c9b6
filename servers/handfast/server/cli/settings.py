"""Flags and environment, read once, into validated settings. A flag wins over its variable."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handfast.server.chassis.settings import (
    LOG_LEVELS,
    ServerSettings,
    SettingsError,
    environment_variable,
    flag,
)

SERVERS = ("users", "preferences", "accounts")
FIRST_PORT = 50051
DATA_DIR = "./handfast-data"


def port_of(server: str, first_port: int = FIRST_PORT) -> int:
    """The port of a server in a suite whose ports start at `first_port`."""
    return first_port + SERVERS.index(server)


def _text(value: str) -> str:
    return value


def _whole_number(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"must be a whole number, not {value!r}") from None


def _seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"must be a number of seconds, not {value!r}") from None


def _yes_or_no(value: str) -> bool:
    choices = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        return choices[value.lower()]
    except KeyError:
        raise ValueError(f"must be true or false, not {value!r}") from None


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a command. `default` is for the help; None says that the setting is required."""

    name: str
    help: str
    default: str | None
    parse: Callable[[str], object] = _text


def _address(server: str) -> Setting:
    return Setting(f"{server}_address", f"where the {server} server is", f"127.0.0.1:{port_of(server)}")


ADDRESSES = tuple(_address(server) for server in SERVERS)
THREADS = Setting("threads", "calls that a server answers at a time", "16", _whole_number)
QUEUE = Setting("queue", "calls that may wait for their turn; further ones are refused", "48", _whole_number)
GRACE = Setting("grace", "seconds that calls in flight get to end when a server stops", "10", _seconds)
LOG_LEVEL = Setting("log_level", f"one of {', '.join(LOG_LEVELS)}", "info")


UP_SETTINGS = (
    Setting("data_dir", "folder of the SQLite files, made if absent", DATA_DIR),
    Setting(
        "first_port",
        "users is served here, preferences and accounts on the next two ports, and metrics 100 ports above each",
        str(FIRST_PORT),
        _whole_number,
    ),
    THREADS,
    QUEUE,
    GRACE,
    LOG_LEVEL,
)
DEMO_SETTINGS = ADDRESSES
TRANSACTIONS_SETTINGS = ADDRESSES


def serve_settings(server: str) -> tuple[Setting, ...]:
    """What `handfast serve SERVER` takes: one for each field of ServerSettings."""
    return (
        Setting("listen", "HOST:PORT to serve on", f"127.0.0.1:{port_of(server)}"),
        Setting("metrics_listen", "HOST:PORT to serve /metrics on", "as listen, port + 100"),
        Setting("database_url", "sqlite:////absolute/file or postgresql://user:password@host/name", None),
        *ADDRESSES,
        THREADS,
        QUEUE,
        GRACE,
        LOG_LEVEL,
        Setting(
            "allow_plaintext_beyond_loopback",
            "listen where other machines can reach this server, without TLS and without authentication",
            "false",
            _yes_or_no,
        ),
    )


def add_flags(parser: argparse.ArgumentParser, server: str, settings: Sequence[Setting]) -> None:
    """Adds a flag for each setting; its help names the environment variable and the default."""
    for setting in settings:
        origin = "required" if setting.default is None else f"default {setting.default}"
        text = f"{setting.help} ({origin}; {environment_variable(server, setting.name)})"
        # A truth value is switched on by the flag alone.
        options: dict[str, Any] = (
            {"action": "store_const", "const": "true"} if setting.parse is _yes_or_no else {"metavar": "…"}
        )
        parser.add_argument(flag(setting.name), dest=setting.name, help=text.replace("%", "%%"), **options)


def read(
    server: str, settings: Sequence[Setting], flags: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Any]:
    """The values of those settings that are given, parsed. An empty variable counts as not given.

    Raises SettingsError for a value that does not parse, and for a required setting that is missing.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        variable = environment_variable(server, setting.name)
        text = flags[setting.name] if flags.get(setting.name) is not None else environment.get(variable) or None
        if text is None:
            if setting.default is None:
                raise SettingsError(server, setting.name, f"is required: {setting.help}")
            continue
        try:
            values[setting.name] = setting.parse(text)
        except ValueError as error:
            raise SettingsError(server, setting.name, str(error)) from None
    return values


def read_server_settings(server: str, flags: Mapping[str, Any], environment: Mapping[str, str]) -> ServerSettings:
    """Settings of `handfast serve SERVER`. Raises SettingsError."""
    values = read(server, serve_settings(server), flags, environment)
    values.setdefault("listen", f"127.0.0.1:{port_of(server)}")
    return ServerSettings(name=server, **values)
