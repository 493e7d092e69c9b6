"""The commands of `handfast`: what each takes. What runs it is imported only then, so that no command pays for what
another needs.
"""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click import Argument, Choice, FloatRange, IntRange, Option

from handfast.server.cli.settings import (
    ADDRESS_SETTINGS,
    PARTICIPANT_SETTING,
    SERVERS,
    UP,
    UP_SETTINGS,
    on_this_machine,
    read_addresses,
)
from handfast.server.process.command import CONTEXT, Failure, failing_as
from handfast.server.process.config_file import CONFIG
from handfast.server.process.flags import server_command
from handfast.server.suite import SuiteSettings

_MOST_SECONDS = 3600.0


class Seconds(FloatRange):
    """A number of them, which NaN is not, though no comparison tells."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{seconds} is not in the range {self._describe_range()}.", param, ctx)
        return seconds


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
@failing_as("handfast: up")
def up(**flags: str | None) -> int:
    """Run all servers, one process each, supervised."""
    from handfast.server.cli.up import run

    return run(flags)


@handfast.group(options_metavar=None, subcommand_metavar="SERVER [OPTIONS]")
def serve() -> None:
    """Run one server."""


def _run_server(settings: SuiteSettings, stop: threading.Event) -> None:
    # Imported only now, so that a mistake in the settings is reported at once, and a signal meanwhile is not lost. The
    # server is imported by its name, so that a process never loads the code of another server.
    from handfast.server.chassis.serving import build_and_run

    build_and_run(importlib.import_module(f"handfast.server.{settings.name}.server").build, settings, stop)


def _check_surroundings(settings: SuiteSettings) -> None:
    if settings.tracing or settings.authentication != "off":  # or it would take most of a second for nothing
        from handfast.server.chassis.serving import check_surroundings

        check_surroundings(settings)


for _server, _address in on_this_machine().items():
    serve.add_command(
        server_command(SuiteSettings, _server, _address, _run_server, f"handfast: {_server}", _check_surroundings)
    )


@handfast.command(params=[CONFIG])
@click.argument("servers", metavar="[SERVER]...", nargs=-1, type=Choice([*SERVERS, UP]))
@failing_as("handfast: config")
def config(servers: Sequence[str], **flags: Any) -> None:
    """Print the value of each setting and where it is from: a variable, the file or the default.

    SERVER is users, preferences or accounts, as `handfast serve` runs them, or up for what `handfast up` has besides;
    all of them by default. What is printed is TOML, with defaults and secrets commented out. `handfast serve users
    --print-config` does the same with flags.
    """
    from handfast.server.cli.config import run

    run(servers, flags, _check_surroundings)


@handfast.command(params=[CONFIG])
@click.argument("servers", metavar="[SERVER]...", nargs=-1)
@click.option("--dry-run", is_flag=True, help="say what would be done, and change nothing")
@click.option("--to", metavar="REVISION", help="go to this one, which may be an earlier one  [default: the newest]")
@click.option("--database-url", metavar="URL", help="the database of the one server that is named")
@failing_as("handfast: migrate")
def migrate(servers: Sequence[str], dry_run: bool, to: str | None, **flags: Any) -> None:
    """Set databases up, or upgrade them, while servers run or not.

    SERVER is users, preferences or accounts, by default all of them, or NAME=PACKAGE:FOLDER for another service: its
    name, and where its migrations are, such as library=library:migrations. Each database is the one that the server
    has: HANDFAST_USERS_DATABASE_URL and so on, or database_url in its table of the file.
    """
    from handfast.server.cli.installed import missing, why_missing

    if lacking := missing():
        raise Failure(why_missing(lacking))
    from handfast.server.cli.migrate import run

    run(servers, to, dry_run, flags)


@handfast.command()
@click.argument("address")
@click.option("--service", default="", metavar="NAME", help="one of its services  [default: the server as a whole]")
@click.option(
    "--timeout",
    type=Seconds(0, _MOST_SECONDS, min_open=True),
    default=1.0,
    metavar="SECONDS",
    help="to wait  [default: 1]",
)
@failing_as("handfast: health")
def health(address: str, service: str, timeout: float) -> int:
    """Ask the server at ADDRESS whether it serves. The exit status is 0 if it does, 1 if not, and 2 for a mistake.

    A service is handfast.users.v1.UserService and so on; liveness asks only whether the server can answer. HANDFAST_CA,
    HANDFAST_CERTIFICATE, HANDFAST_KEY and HANDFAST_SERVER_NAME are for servers with TLS, as for all clients.
    """
    from handfast.server.cli.installed import missing, why_missing

    if lacking := missing():
        raise Failure(why_missing(lacking))
    from handfast.server.cli.health import run

    return run(address, service, timeout)


@handfast.command(params=[*ADDRESS_SETTINGS])
@click.option("--secure", is_flag=True, help="on a suite of its own, which takes TLS and tokens as `up --secure` does")
@failing_as("handfast: demo")
def demo(secure: bool, **flags: str | None) -> None:
    """See an atomic commit, and one that is refused."""
    from handfast.demo import DemoError, show
    from handfast.server.cli.temporary import secure_suite, temporary_suite

    given = read_addresses(flags)
    if secure and given:
        raise Failure("--secure starts a suite of its own; without it, HANDFAST_CA and the like are for one that runs")
    try:
        if secure:
            show({}, secure_suite)
        else:
            show(on_this_machine() | given, None if given else temporary_suite)
    except DemoError as error:
        raise Failure(str(error)) from error


@handfast.command("dev-credentials")
@click.argument("directory")
@click.option(
    "--server", "servers", multiple=True, metavar="NAME", help="one that is not of the suite; may be repeated"
)
@click.option("--subject", metavar="TEXT", help="whom dev-user.token stands for  [default: ada]")
@click.option("--renew", is_flag=True, help="renew what is in DIRECTORY by the keys that it has, and add servers to it")
@failing_as("handfast: dev-credentials")
def dev_credentials(directory: str, servers: Sequence[str], subject: str | None, renew: bool) -> None:
    """Make certificates and tokens for development. They are NOT FOR PRODUCTION.

    DIRECTORY must not be there yet, but with --renew. It gets a CA, a certificate for each server and for clients, what
    the servers may do at each other, a key that signs tokens, and tokens. All of it is for this machine and expires
    after 30 days.
    """
    from handfast.server.cli.dev import folder

    given = {} if subject is None else {"subject": subject}
    made = (folder.renew if renew else folder.make)(Path(directory), servers, **given)
    click.echo((made.folder / "NOT-FOR-PRODUCTION.txt").read_text(), nl=False)


@handfast.command("dev-token")
@click.argument("directory")
@click.option("--subject", required=True, metavar="TEXT", help="whom it stands for, such as a user id")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="what it allows; may be repeated")
@click.option("--seconds", type=IntRange(1), default=3600, show_default=True, help="how long it can be used")
@failing_as("handfast: dev-token")
def dev_token(directory: str, subject: str, scopes: Sequence[str], seconds: int) -> None:
    """Print a token that is signed by the key in the folder DIRECTORY of dev-credentials. It is NOT FOR PRODUCTION."""
    from handfast.server.cli.dev.folder import DevCredentials

    click.echo(DevCredentials(Path(directory)).issue(subject, scopes, seconds))


@handfast.group(options_metavar=None, subcommand_metavar="WHAT [OPTIONS]")
def new() -> None:
    """Begin something of your own."""


@new.command("service")
@click.argument("name")
@click.option("--resource", default="item", show_default=True, metavar="NAME", help="what it keeps, such as book")
@click.option("--directory", metavar="DIRECTORY", help="the folder to make, instead of ./NAME")
@failing_as("handfast: new service")
def new_service(name: str, resource: str, directory: str | None) -> None:
    """Write a service that takes part in transactions."""
    from handfast.server.cli.new.service import write

    folder = Path(directory or name)
    write(name, resource, folder)
    click.echo(f"{folder} has a service now; its README.md says how to go on.")


@handfast.group(options_metavar=None, subcommand_metavar="ACTION [OPTIONS]")
def transactions() -> None:
    """See what became of transactions, and end those in doubt."""


def _add_action(action: str, purpose: str, *own: click.Parameter) -> None:
    as_json = Option(["--json", "as_json"], is_flag=True, help="print JSON, for programs")

    @transactions.command(action, params=[*own, as_json, *ADDRESS_SETTINGS, PARTICIPANT_SETTING], help=purpose)
    @failing_as("handfast: transactions")
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
        help="let this participant finish it without what it has lost or cannot apply, such as users; may be repeated",
    ),
    Option(
        ["--timeout"],
        type=Seconds(0, _MOST_SECONDS),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="how long to wait until every participant has finished it",
    ),
)
