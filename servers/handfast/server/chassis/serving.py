"""A server as a command: what `handfast serve` does, for a server of any name."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from handfast.server.chassis.server import Server, StartError
from handfast.server.process.command import CONTEXT, Failure, run, setting_options
from handfast.server.process.flags import read_settings, settings_of
from handfast.server.process.settings import ServerSettings, SettingsError
from handfast.server.process.stopping import when_asked_to_stop

Told = TypeVar("Told", bound=ServerSettings)


def serve(
    build: Callable[[Told], Server],
    settings: type[Told],
    *,
    name: str,
    listen: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Serves what `build` makes of the settings, until SIGTERM, SIGINT or SIGHUP, then drains. For a process's main
    thread.

    Flags and environment say what the settings are: `--listen` or `HANDFAST_<NAME>_LISTEN`, `--threads` or
    `HANDFAST_THREADS`, and so on for each field. It listens on `listen` unless it is told otherwise.

    Returns the exit status. What it expects to go wrong, a setting that breaks its rule or a StartError, is one line on
    stderr and status 2; a flag that there is not, status 2 and how to use the command.
    """

    def command(**flags: str | None) -> None:
        stop = threading.Event()
        try:
            told = read_settings(settings, name, listen, flags, os.environ)
            when_asked_to_stop(stop.set)
            build(told).run(stop)
        except (SettingsError, StartError) as error:
            raise Failure(f"{name}: {error}") from error

    options = setting_options(name, settings_of(settings, listen))
    purpose = f"Run the {name} server."
    return run(click.Command(name, CONTEXT, callback=command, params=options, help=purpose), argv)
