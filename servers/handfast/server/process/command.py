"""A command line made with click: its settings as options, and its exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from handfast.server.process.flags import Setting, yes_or_no
from handfast.server.process.settings import environment_variable, flag

MISTAKE = 2
"""The exit status after a mistake that the user can correct, which one line on stderr explains."""
INTERRUPTED = 130
"""The exit status after Ctrl-C: 128 and the number of the signal."""
CONTEXT: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,  # columns of help, where the terminal has as many
    "color": False if os.environ.get("NO_COLOR") else None,  # https://no-color.org
}
"""What a command gets as its `context_settings`; those below it inherit that."""


class Failure(click.ClickException):
    """A failure that its reader can act on: printed as one line on stderr, exit status 2, no traceback."""

    exit_code = MISTAKE

    def show(self, file: object = None) -> None:
        click.echo(self.message, err=True)


class SettingOption(click.Option):
    """A setting as a flag, whose help names its environment variable and its default.

    It has no default of its own: `flags.read` looks at the variable, and only then at the default.
    """

    def __init__(self, server: str, setting: Setting) -> None:
        names = [flag(setting.name), setting.name]
        if setting.parse is yes_or_no:  # switched on by the flag alone
            super().__init__(names, help=setting.help, is_flag=True, flag_value="true", default=None, type=str)
        else:
            super().__init__(names, help=setting.help, metavar=setting.metavar)
        self._setting = setting
        self._variable = environment_variable(server, setting.name)

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        extra = click.types.OptionHelpExtra(envvars=(self._variable,))
        if self._setting.default is None:
            return extra | {"required": "required"}
        return extra | {"default": self._setting.default}


def setting_options(server: str, settings: Sequence[Setting]) -> list[click.Parameter]:
    """The settings of a server, or of a command that is named in its place, as options of a click command."""
    return [SettingOption(server, setting) for setting in settings]


def run(command: click.Command, argv: Sequence[str] | None, program: str | None = None) -> int:
    """Runs a command line; returns its exit status. `argv` is that of the process, and `program` the name that it was
    called by, unless they are given.

    A reader of its output who leaves before the end, such as `head`, ends it without a word, with status 1; a disk that
    is full, with one line.
    """
    try:
        status = command.main(argv, program, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # What is left in the buffer goes nowhere, so that the flush at the interpreter's end does not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.ENOSPC:
            click.echo(f"cannot write: {error.strerror}", err=True)
        return 1
    return int(status or 0)
