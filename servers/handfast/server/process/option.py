"""One setting as an option of a command line, and how the text of its flag or variable is parsed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from handfast.server.process.settings import flag, names, shown

Parse = Callable[[str], Any]

FILE = "_file"
"""Ends the name of what names a file with the value of a secret setting: a variable, or a key of the file."""
_YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _parser(convert: Parse, expected: str) -> Parse:
    def parse(text: str) -> Any:
        try:
            return convert(text)
        except (KeyError, ValueError):
            raise ValueError(f"must be {expected}, not {text!r}") from None

    return parse


whole_number = _parser(int, "a whole number")
seconds = _parser(float, "a number of seconds")
yes_or_no = _parser(lambda text: _YES_OR_NO[text.lower()], "true or false")


def several(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


class Setting(click.Option):
    """One setting of a server or a command, as an option whose help names its variable and its default.

    `default` is the text that the help shows; None means that the setting is required. `parse` makes a value of the
    text of a flag or variable, and raises ValueError with the rule that the text breaks. `metavar` stands for the value
    in the help, such as NUMBER. `key` is its name in a file of settings, where that is another. One that is `secret`
    may also be in a file of its own that nobody else can read, named by the variable `<variable>_FILE`; where `secret`
    is a function, that gives what of a value anybody may see.

    click learns neither of the variable nor of the default: `read` looks at these.
    """

    def __init__(
        self,
        variable: str,
        name: str,
        help: str,
        default: str | None,
        parse: Parse = str,
        metavar: str = "TEXT",
        secret: bool | Callable[[str], str] = False,
        key: str = "",
    ) -> None:
        flags = flag(name)
        form: dict[str, Any] = {"type": str, "metavar": metavar}
        if parse is yes_or_no:  # it has no value: to give it is to say true
            flags, form = f"{flags}/{flag(f'no_{name}')}", {"type": bool}
        super().__init__([flags, name], help=help, default=None, multiple=parse is several, **form)
        self.parse = parse
        self.variable = variable
        self.file_variable = f"{variable}{FILE.upper()}" if secret else ""
        self.names = names(name, variable)
        self.key = key or name
        self.file_key = f"{self.key}{FILE}" if secret else ""
        self.secret = secret
        self.shown_default = default

    def public(self, value: object) -> str:
        """The value as its text, without what is secret in it. The query of a URL may have a key to it."""
        if callable(self.secret):
            return self.secret(shown(value))
        return "" if self.secret else re.sub(r"(?is)^(https?://[^?]*)\?.*", r"\1", shown(value))

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        extra = click.types.OptionHelpExtra(envvars=tuple(filter(None, (self.variable, self.file_variable))))
        if self.shown_default is None:
            return extra | {"required": "required"}
        return extra | {"default": self.shown_default}
