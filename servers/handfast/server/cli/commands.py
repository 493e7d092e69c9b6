"""The commands of `handfast`: what each takes, and which function runs it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import click

from handfast.server.cli.errors import CommandError
from handfast.server.cli.settings import ADDRESS_SETTINGS, SERVERS, UP_SETTINGS, serve_settings
from handfast.server.process.command import CONTEXT, Failure, setting_options
from handfast.server.process.settings import SettingsError


def _command(name: str, purpose: str, run: Callable[..., int], *parameters: click.Parameter) -> click.Command:
    return click.Command(name, help=purpose, callback=run, params=list(parameters))


def _lazily(who: str, module: str, function: str, *given: str) -> Callable[..., int]:
    """Calls a function of one of this package's modules with what is `given`, and with the command's parameters as one
    dictionary. `who` is named where it fails.
    """

    def run(**parameters: Any) -> int:
        try:
            # Imported only now, so that no command pays for what another needs.
            status: int = getattr(importlib.import_module(f"handfast.server.cli.{module}"), function)(
                *given, parameters
            )
        except (SettingsError, CommandError) as error:
            raise Failure(f"handfast: {who}: {error}") from error
        return status

    return run


def _transactions(action: str, purpose: str, *parameters: click.Parameter) -> click.Command:
    as_json = click.Option(["--json", "as_json"], is_flag=True, help="print JSON, for programs")
    addresses = setting_options("transactions", ADDRESS_SETTINGS)
    run = _lazily("transactions", "transactions", "run", action)
    return _command(action, purpose, run, *parameters, as_json, *addresses)


@click.command("help")
@click.argument("words", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def _help(context: click.Context, words: Sequence[str]) -> None:
    """Show how to use a command."""
    handfast.main([*words, "--help"], context.find_root().info_name, standalone_mode=False)


_TRANSACTION_ID = click.Argument(["transaction_id"])

handfast = click.Group(
    "handfast",
    context_settings=CONTEXT,
    help="gRPC services for users and their preferences, with atomic commit across them.",
    subcommand_metavar="COMMAND [ARGUMENTS]...",
    commands=[
        _command(
            "up",
            "Run all servers, one process each, supervised.",
            _lazily("up", "up", "run"),
            *setting_options("up", UP_SETTINGS),
        ),
        click.Group(
            "serve",
            help="Run one server.",
            options_metavar=None,
            subcommand_metavar="SERVER [OPTIONS]",
            commands=[
                _command(
                    server,
                    f"Run the {server} server.",
                    _lazily(server, "serve", "run", server),
                    *setting_options(server, serve_settings(server)),
                )
                for server in SERVERS
            ],
        ),
        _command(
            "demo",
            "See an atomic commit, and one that is refused.",
            _lazily("demo", "demo", "run"),
            *setting_options("demo", ADDRESS_SETTINGS),
        ),
        click.Group(
            "transactions",
            help="See what became of transactions, and end those in doubt.",
            options_metavar=None,
            subcommand_metavar="ACTION [OPTIONS]",
            commands=[
                _transactions(
                    "list",
                    "List decided transactions, the newest first, or those in doubt.",
                    click.Option(
                        ["--state"],
                        type=click.Choice(["committed", "aborted"]),
                        help="only those that were decided like this",
                    ),
                    click.Option(
                        ["--in-doubt"],
                        is_flag=True,
                        help="those that are not decided, or not finished everywhere, the oldest first; "
                        "some are always on their way",
                    ),
                    click.Option(
                        ["--limit"],
                        type=click.IntRange(min=1),
                        default=50,
                        show_default=True,
                        metavar="NUMBER",
                        help="how many at the most",
                    ),
                ),
                _transactions(
                    "show", "Show what became of one, and what each participant holds of it.", _TRANSACTION_ID
                ),
                _transactions(
                    "resolve",
                    "Roll one back unless it is decided, and see it finished.",
                    _TRANSACTION_ID,
                    click.Option(
                        ["--yes"],
                        is_flag=True,
                        help="do not ask before ending one that no server knows",
                    ),
                ),
            ],
        ),
        _help,
    ],
)
click.version_option(package_name="handfast", message="%(prog)s %(version)s")(handfast)
