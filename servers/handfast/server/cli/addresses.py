"""The addresses of a suite, from the flags and variables of `transactions`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from handfast.client.addresses import check_address
from handfast.server.cli.errors import CommandError
from handfast.server.cli.settings import ADDRESS_SETTINGS, SERVERS, port_of
from handfast.server.process.flags import read
from handfast.server.process.settings import environment_variable, flag


def on_this_machine(first_port: int) -> dict[str, str]:
    return {server: f"127.0.0.1:{port_of(server, first_port)}" for server in SERVERS}


def read_addresses(command: str, flags: Mapping[str, Any]) -> dict[str, str]:
    """The addresses that are given, by server. Raises SettingsError and CommandError."""
    # A first port that is given as a flag wins over variables, and a server's own address over a first port.
    environment = {} if flags["first_port"] else os.environ
    values = read(command, ADDRESS_SETTINGS, flags, environment)
    given = on_this_machine(values.pop("first_port")) if "first_port" in values else {}
    for setting, address in values.items():
        try:
            check_address(address, setting=f"{flag(setting)} (or {environment_variable(command, setting)})")
        except ValueError as error:
            raise CommandError(str(error)) from error
        given[setting.removesuffix("_address")] = address
    return given
