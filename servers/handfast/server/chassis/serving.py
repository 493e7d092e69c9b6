"""A server as a command: what `handfast serve` does, for a server of any name."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import pkgutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import structlog

from handfast.server.chassis.logs import log
from handfast.server.chassis.server import Server
from handfast.server.chassis.start_errors import StartError
from handfast.server.chassis.versions import versions
from handfast.server.process import open_files
from handfast.server.process.command import run
from handfast.server.process.flags import Settings, server_command
from handfast.server.process.processors import keep_to
from handfast.server.process.secrets import OTHERS
from handfast.server.process.settings import ServerSettings


def serve(
    build: Callable[[Settings], Server] | str,
    settings: type[Settings],
    *,
    name: str,
    listen: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs the server that `build` makes of its settings, until SIGTERM, SIGINT or SIGHUP; then lets calls in flight
    end. Call it on the main thread of a process. `build` may also say where that function is, such as
    `library.server:build`. Then it is imported here, and what is declared there and cannot be, such as a table that
    does not fit its message, is told as settings are that break their rules.

    The values of `settings` come from flags, from the environment and from the TOML file that `--config` or
    `HANDFAST_CONFIG` names: `--listen` or `HANDFAST_<NAME>_LISTEN` or `listen` in the table `[<name>]`, `--threads` or
    `HANDFAST_THREADS` or `threads`, and so on for each field. `listen` is the default of the first, as `HOST:PORT`.
    `argv` are the flags, by default those of the process.

    Returns the exit status: 0 after a signal; 2, with one line on stderr beside the log, after a setting that breaks
    its rule or a StartError; 2, with the usage, after an unknown flag.
    """

    build_server = functools.partial(_build_by_name, build) if isinstance(build, str) else build
    run_server = functools.partial(build_and_run, build_server)
    return run(server_command(settings, name, listen, run_server, name, check_surroundings), argv)


def build_and_run(build: Callable[[Settings], Server], settings: Settings, stop: threading.Event) -> None:
    """Runs the server that `build` makes of `settings`, until `stop` is set. Raises StartError. The log is configured
    first, since `build` may upgrade a database, and logs what it does there; its first line has the versions. What the
    process makes, such as the files of SQLite, is for its user alone.
    """
    os.umask(OTHERS)
    open_files.raise_limit()
    log.configure(settings.name, settings.log_level)
    structlog.get_logger().info("starting", **versions())
    if settings.tracing and _sdk_is_disabled():
        settings = dataclasses.replace(settings, tracing=False)
    with _exporting(settings):  # whose variables are checked before a database is opened
        build(settings).run(stop)


def _sdk_is_disabled() -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _sdk() -> ModuleType:
    """OpenTelemetry reads some variables as it is imported."""
    from handfast.server.chassis.tracing import environment

    environment.take_away_empty()
    try:
        return importlib.import_module("handfast.server.chassis.tracing.sdk")
    except ValueError as error:
        raise StartError(f"cannot trace: {error}") from error


@contextmanager
def _exporting(settings: ServerSettings) -> Iterator[None]:
    if not settings.tracing:
        yield
        return
    sdk = _sdk()
    before = {thread.native_id for thread in threading.enumerate()}
    with sdk.exporting(settings.name):
        # Its thread, but none of gRPC's, which is why this one is kept there only by `Server.run`.
        for thread in {thread.native_id for thread in threading.enumerate()} - before:
            keep_to(settings.processor, thread or 0)
        yield


def check_surroundings(settings: ServerSettings) -> None:
    """Raises Failure where a server would not start, as a file of whom it trusts or a variable OTEL_… cannot be used.
    Certificates are checked by the settings themselves."""
    if settings.tracing and not _sdk_is_disabled():
        _sdk().check()
    if settings.authentication == "off":
        return
    from handfast.server.chassis.security.authenticator import Authenticator

    log.configure(settings.name, "error")  # or what is logged of them would stand among what is printed
    Authenticator(settings)


def _build_by_name(name: str, settings: ServerSettings) -> Server:
    server: Server = pkgutil.resolve_name(name)(settings)
    return server
