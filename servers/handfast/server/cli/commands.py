"""The commands of `handfast`: what each takes. What runs it is imported only then, so that no command pays for what
another needs.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from click import Argument, Choice, FloatRange, IntRange, Option

from handfast.server.cli.settings import (
    ADDRESS_SETTINGS,
    FIRST_PORT,
    SERVERS,
    UP_SETTINGS,
    on_this_machine,
    read_addresses,
    read_server_settings,
    serve_settings,
)
from handfast.server.process.command import CONTEXT, Failure
from handfast.server.process.settings import SettingsError
from handfast.server.process.supervision import when_asked_to_stop


@contextlib.contextmanager
def _one_line(who: str) -> Iterator[None]:
    """Makes one line on stderr, which begins with `handfast: {who}: `, of what is expected to go wrong."""
    try:
        yield
    except (SettingsError, Failure) as error:
        raise Failure(f"handfast: {who}: {error}") from error


@click.group(context_settings=CONTEXT, subcommand_metavar="COMMAND [ARGUMENTS]...")
@click.version_option(package_name="handfast", message="%(prog)s %(version)s")
def handfast() -> None:
    """gRPC services for users and their preferences, with atomic commit across them."""


@handfast.command("help")
@click.argument("words", metavar="[COMMAND]...", nargs=-1)
def show_help(words: Sequence[str]) -> None:
    """Show how to use a command."""
    handfast.main([*words, "--help"], "handfast", standalone_mode=False)


@handfast.command(params=[*UP_SETTINGS])
@_one_line("up")
def up(**flags: str | None) -> int:
    """Run all servers, one process each, supervised."""
    from handfast.server.cli.up import run

    return run(flags)


@handfast.group(options_metavar=None, subcommand_metavar="SERVER [OPTIONS]")
def serve() -> None:
    """Run one server."""


def _add_server(server: str) -> None:
    @serve.command(server, params=[*serve_settings(server)], help=f"Run the {server} server.")
    @_one_line(server)
    def serve_it(**flags: str | None) -> None:
        _serve(server, flags)


def _serve(server: str, flags: Mapping[str, str | None]) -> None:
    settings = read_server_settings(server, flags, os.environ)
    stop = threading.Event()
    when_asked_to_stop(stop.set)

    # Imported only now, so that a mistake in the settings is reported at once, and a signal meanwhile is not lost. The
    # server is imported by its name, so that a process never loads the code of another server.
    from handfast.server.chassis.server import StartError
    from handfast.server.chassis.serving import build_and_run

    module = importlib.import_module(f"handfast.server.{server}.server")
    try:
        build_and_run(module.build, settings, stop)
    except StartError as error:
        raise Failure(str(error)) from error


for _server in SERVERS:
    _add_server(_server)


@handfast.command(params=[*ADDRESS_SETTINGS])
@_one_line("demo")
def demo(**flags: str | None) -> None:
    """See an atomic commit, and one that is refused."""
    from handfast.demo import DemoError, show
    from handfast.server.cli.temporary import temporary_suite

    given = read_addresses(flags)
    try:
        show(on_this_machine(FIRST_PORT) | given, None if given else temporary_suite)
    except DemoError as error:
        raise Failure(str(error)) from error


@handfast.group(options_metavar=None, subcommand_metavar="ACTION [OPTIONS]")
def transactions() -> None:
    """See what became of transactions, and end those in doubt."""


def _add_action(action: str, purpose: str, *own: click.Parameter) -> None:
    as_json = Option(["--json", "as_json"], is_flag=True, help="print JSON, for programs")

    @transactions.command(action, params=[*own, as_json, *ADDRESS_SETTINGS], help=purpose)
    @_one_line("transactions")
    def act(**arguments: Any) -> None:
        from handfast.server.cli.transactions import run

        run(action, arguments)


_add_action(
    "list",
    "List decided transactions, the newest first, or those in doubt.",
    Option(["--state"], type=Choice(["committed", "aborted"]), help="only those that were decided like this"),
    Option(
        ["--in-doubt"],
        is_flag=True,
        help="those that are not decided, or not finished everywhere, the oldest first; some are always on their way",
    ),
    Option(["--limit"], type=IntRange(1), default=50, show_default=True, metavar="NUMBER", help="how many at the most"),
)
_add_action(
    "show",
    "Show what became of one, and what each participant holds of it.",
    Argument(["transaction_id"]),
)
_add_action(
    "resolve",
    "Roll one back unless it is decided, and see it finished.",
    Argument(["transaction_id"]),
    Option(["--yes"], is_flag=True, help="do not ask before ending one that no server knows"),
    Option(
        ["--accept-loss"],
        multiple=True,
        metavar="PARTICIPANT",
        help="let this participant finish it without what it has lost, such as users; may be repeated",
    ),
    Option(
        ["--timeout"],
        type=FloatRange(0),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="how long to wait until every participant has finished it",
    ),
)
