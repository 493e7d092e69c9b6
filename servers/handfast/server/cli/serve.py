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

    # Imported only now, so that a mistake in the settings is reported at once, and a signal meanwhile is not lost. The
    # server is imported by its name, so that a process never loads the code of another server.
    from handfast.server.chassis.server import StartError
    from handfast.server.chassis.serving import build_and_run

    module = importlib.import_module(f"handfast.server.{name}.server")
    try:
        build_and_run(module.build, settings, stop)
    except StartError as error:
        raise CommandError(str(error)) from error
    return 0
