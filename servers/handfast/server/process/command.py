"""A command line made with click: how its help looks, and its exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

CONTEXT: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,  # columns of help, where the terminal has as many
    "color": False if os.environ.get("NO_COLOR") else None,  # https://no-color.org
}
"""What a command gets as its `context_settings`; those below it inherit that."""


class Failure(click.ClickException):
    """A failure that its reader can act on: printed as one line on stderr, exit status 2, no traceback."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        click.echo(self.message, err=True)


@contextlib.contextmanager
def failing_as(who: str) -> Iterator[None]:
    """Begins the line of a failure with `who` and a colon."""
    try:
        yield
    except Failure as error:
        raise Failure(f"{who}: {error}") from error


def run(command: click.Command, argv: Sequence[str] | None, program: str | None = None) -> int:
    """Runs a command line; returns its exit status. `argv` is that of the process, and `program` the name that it was
    called by, unless they are given.

    A reader of its output who leaves before the end, such as `head`, ends it without a word, with status 1; a disk that
    is full, with one line. Asked to stop by SIGTERM, it ends as by SIGINT: a query that runs is cancelled.
    """
    interrupted_by = signal.SIGINT

    def interrupt(*_: object) -> None:
        nonlocal interrupted_by
        interrupted_by = signal.SIGTERM
        raise KeyboardInterrupt

    # The first process of a container would pass over a signal that nothing handles.
    signal.signal(signal.SIGTERM, interrupt)
    try:
        status = command.main(argv, program, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 128 + interrupted_by
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # What is left in the buffer goes nowhere, so that the flush at the interpreter's end does not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.ENOSPC:
            click.echo(f"cannot write: {error.strerror}", err=True)
        return 1
    return int(status or 0)
