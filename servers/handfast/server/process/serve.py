"""A server as a command."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import click

from handfast.server.process.command import CONTEXT, failing_as
from handfast.server.process.flags import Settings, read_settings, settings_of
from handfast.server.process.supervision import when_asked_to_stop


def server_command(
    kind: type[Settings], name: str, listen: str, run: Callable[[Settings, threading.Event], None], who: str
) -> click.Command:
    """The command that runs the server `name`: `run` gets its settings, of the class `kind`, and the event that is set
    when this process is asked to stop. `listen` is the default of its address; `who` begins the line of a failure.
    """

    @failing_as(who)
    def serve(**flags: str | None) -> None:
        settings = read_settings(kind, name, listen, flags, os.environ)
        stop = threading.Event()
        when_asked_to_stop(stop.set)
        run(settings, stop)

    return click.Command(
        name, CONTEXT, callback=serve, params=[*settings_of(kind, name, listen)], help=f"Run the {name} server."
    )
