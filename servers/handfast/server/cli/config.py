"""`handfast config`: what the settings of servers are, and where they are from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from handfast.server.cli.settings import OF_UP, SERVERS, UP, on_this_machine, read_of_up
from handfast.server.process.command import Failure
from handfast.server.process.config_file import CONFIG, config_file
from handfast.server.process.flags import print_settings, settings_of
from handfast.server.process.listing import listing
from handfast.server.process.sources import values
from handfast.server.suite import SuiteSettings


def run(named: Sequence[str], flags: Mapping[str, Any], check: Callable[[SuiteSettings], object]) -> None:
    """Prints those of each that is named, or else of all, and which tables of the file and which variables are for none
    of these. Raises Failure at the end, with a line for each server that could not start with them, or for which
    `check` raises one.
    """
    file = config_file(flags, os.environ)
    servers, faults = named or (*SERVERS, UP), []
    for server in servers:
        if server != servers[0]:
            click.echo()
        try:
            if server == UP:
                given = read_of_up(flags)
                defaults = {each.name: each.parse(each.shown_default or "") for each in OF_UP}
                click.echo(listing(UP, OF_UP, given, defaults | values(given)))
            else:
                print_settings(SuiteSettings, server, on_this_machine()[server], flags, os.environ, check)
        except Failure as error:
            faults.append(f"{server}: {error}")
    known = {*servers, *(setting.key for setting in settings_of(SuiteSettings, UP, ""))}
    others = [name for name, value in file.content.items() if isinstance(value, dict) and name not in known]
    if others and not named:
        click.echo(f"\n# For no server of the suite: {', '.join(others)} of {file.path}")
    if variables := _variables_of_none():
        click.echo(f"\n# For no server of the suite: {', '.join(variables)}")
    if faults:
        raise Failure("\n".join(faults))


def _variables_of_none() -> list[str]:
    """Those that begin as ours do, and may be slips of the pen, or are for clients or other servers."""
    settings = [CONFIG, *OF_UP, *(each for server in SERVERS for each in settings_of(SuiteSettings, server, ""))]
    known = {name for each in settings for name in (each.variable, each.file_variable)}
    return sorted(name for name in os.environ if name.startswith("HANDFAST_") and name not in known)
