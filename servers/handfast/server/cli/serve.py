"""`handfast serve NAME`: one server in this process."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Mapping
from typing import Any

from handfast.server.cli.errors import CommandError
from handfast.server.cli.settings import read_server_settings
from handfast.server.process.stopping import when_asked_to_stop


def run(name: str, flags: Mapping[str, Any]) -> int:
    settings = read_server_settings(name, flags, os.environ)
    stop = threading.Event()
    when_asked_to_stop(stop.set)

    # Imported only now: a mistake in the settings is told at once, and a signal meanwhile is not lost. The server
    # is imported by name, so that its process never loads another's code.
    from handfast.server.chassis.logs import log
    from handfast.server.chassis.server import Server, StartError

    log.configure(settings.name, settings.log_level)  # before the database is upgraded, which has things to tell
    module = importlib.import_module(f"handfast.server.{settings.name}.server")
    try:
        server: Server = module.build(settings)
        server.run(stop)
    except StartError as error:
        raise CommandError(str(error)) from error
    return 0
