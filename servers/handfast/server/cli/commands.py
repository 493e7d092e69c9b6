"""The commands of `handfast`: what each takes. What runs it is imported only then, so that no command pays for what
another needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import click

from handfast.server.cli.errors import CommandError
from handfast.server.cli.settings import ADDRESS_SETTINGS, FIRST_PORT, SERVERS, UP_SETTINGS, serve_settings
from handfast.server.process.command import CONTEXT, Failure, setting_options
from handfast.server.process.settings import SettingsError


@contextlib.contextmanager
def _one_line(who: str) -> Iterator[None]:
    """Makes one line on stderr, which begins with `handfast: {who}: `, of what is expected to go wrong."""
    try:
        yield
    except (SettingsError, CommandError) as error:
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


@handfast.command(params=setting_options("up", UP_SETTINGS))
@_one_line("up")
def up(**flags: str | None) -> int:
    """Run all servers, one process each, supervised."""
    from handfast.server.cli.up import run

    return run(flags)


@handfast.group(options_metavar=None, subcommand_metavar="SERVER [OPTIONS]")
def serve() -> None:
    """Run one server."""


def _add_server(server: str) -> None:
    @serve.command(server, params=setting_options(server, serve_settings(server)), help=f"Run the {server} server.")
    @_one_line(server)
    def serve_it(**flags: str | None) -> int:
        from handfast.server.cli.serve import run

        return run(server, flags)


for _server in SERVERS:
    _add_server(_server)


@handfast.command(params=setting_options("demo", ADDRESS_SETTINGS))
@_one_line("demo")
def demo(**flags: str | None) -> int:
    """See an atomic commit, and one that is refused."""
    from handfast.demo import DemoError, show
    from handfast.server.cli.addresses import on_this_machine, read_addresses
    from handfast.server.cli.temporary import temporary_suite

    given = read_addresses("demo", flags)
    try:
        show(on_this_machine(FIRST_PORT) | given, None if given else temporary_suite)
    except DemoError as error:
        raise CommandError(str(error)) from error
    return 0


@handfast.group(options_metavar=None, subcommand_metavar="ACTION [OPTIONS]")
def transactions() -> None:
    """See what became of transactions, and end those in doubt."""


_ID = click.Argument(["transaction_id"])
_OF_EACH_ACTION = [
    click.Option(["--json", "as_json"], is_flag=True, help="print JSON, for programs"),
    *setting_options("transactions", ADDRESS_SETTINGS),
]
_OF_LIST = [
    click.Option(
        ["--state"], type=click.Choice(["committed", "aborted"]), help="only those that were decided like this"
    ),
    click.Option(
        ["--in-doubt"],
        is_flag=True,
        help="those that are not decided, or not finished everywhere, the oldest first; some are always on their way",
    ),
    click.Option(
        ["--limit"],
        type=click.IntRange(min=1),
        default=50,
        show_default=True,
        metavar="NUMBER",
        help="how many at the most",
    ),
]
_OF_RESOLVE = [
    click.Option(["--yes"], is_flag=True, help="do not ask before ending one that no server knows"),
    click.Option(
        ["--accept-loss"],
        multiple=True,
        metavar="PARTICIPANT",
        help="let this participant finish it without what it has lost, such as users; may be repeated",
    ),
    click.Option(
        ["--timeout"],
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="how long to wait until every participant has finished it",
    ),
]


def _add_action(action: str, options: list[click.Parameter], purpose: str) -> None:
    @transactions.command(action, params=[*options, *_OF_EACH_ACTION], help=purpose)
    @_one_line("transactions")
    def act(**arguments: object) -> int:
        from handfast.server.cli.transactions import run

        return run(action, arguments)


_add_action("list", [*_OF_LIST], "List decided transactions, the newest first, or those in doubt.")
_add_action("show", [_ID], "Show what became of one, and what each participant holds of it.")
_add_action("resolve", [_ID, *_OF_RESOLVE], "Roll one back unless it is decided, and see it finished.")
