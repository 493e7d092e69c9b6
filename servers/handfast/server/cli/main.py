"""The parser of the `handfast` command, and the call of the command that it names."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from handfast.server.cli.errors import CommandError
from handfast.server.cli.settings import DEMO_SETTINGS, SERVERS, TRANSACTIONS_SETTINGS, UP_SETTINGS, serve_settings
from handfast.server.process.flags import add_flags
from handfast.server.process.settings import SettingsError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status. What it expects to go wrong is one line on stderr and status 2."""
    arguments = _parser().parse_args(argv)
    try:
        # Imported only now, so that no command pays for what another needs.
        return int(importlib.import_module(f"handfast.server.cli.{arguments.command}").run(arguments))
    except (SettingsError, CommandError) as error:
        failure = str(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("handfast"):
            raise
        failure = f"{error.name} is not installed; servers need: pip install 'handfast[server]'"
    except KeyboardInterrupt:
        return 130
    who = getattr(arguments, "server", arguments.command)
    print(f"handfast: {who}: {failure}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="handfast", description="gRPC services for users and their preferences, with atomic commit across them."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="run all servers, one process each, supervised")
    add_flags(up, "up", UP_SETTINGS)

    serve = commands.add_parser("serve", help="run one server")
    servers = serve.add_subparsers(dest="server", required=True, metavar="SERVER")
    for server in SERVERS:
        add_flags(servers.add_parser(server, help=f"run the {server} server"), server, serve_settings(server))

    demo = commands.add_parser("demo", help="see an atomic commit, and one that is refused")
    add_flags(demo, "demo", DEMO_SETTINGS)

    transactions = commands.add_parser("transactions", help="see what became of transactions, and end those in doubt")
    _add_actions(transactions.add_subparsers(dest="action", required=True, metavar="ACTION"))
    return parser


def _add_actions(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Those of `handfast transactions`."""
    listing = actions.add_parser("list", help="list decided transactions, the newest first, or those in doubt")
    which = listing.add_mutually_exclusive_group()
    which.add_argument("--state", choices=("committed", "aborted"), help="only those that were decided like this")
    in_doubt = "those that are not decided, or not finished everywhere, the oldest first; some are always on their way"
    which.add_argument("--in-doubt", action="store_true", help=in_doubt)
    listing.add_argument("--limit", type=_positive, default=50, metavar="N", help="how many at the most (default 50)")
    show = actions.add_parser("show", help="show what became of one, and what each participant holds of it")
    resolve = actions.add_parser("resolve", help="roll one back unless it is decided, and see it finished")
    for action in (show, resolve):
        action.add_argument("transaction_id", metavar="TRANSACTION_ID")
    for action in (listing, show, resolve):
        action.add_argument("--json", action="store_true", help="print JSON, for programs")
        add_flags(action, "transactions", TRANSACTIONS_SETTINGS)


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return number


if __name__ == "__main__":
    sys.exit(main())
