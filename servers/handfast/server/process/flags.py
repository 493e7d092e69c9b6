"""Flags and environment, read once, into validated settings, and the command that runs a server with them. A flag wins
over its variable.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

import click

from handfast.server.process.command import CONTEXT, failing_as
from handfast.server.process.secrets import read_secret_line
from handfast.server.process.settings import ServerSettings, SettingsError, flag, shown
from handfast.server.process.supervision import when_asked_to_stop

Settings = TypeVar("Settings", bound=ServerSettings)
Parse = Callable[[str], Any]

FILE = "_FILE"
"""Ends the name of a variable that names a file with the value of a secret setting."""
_YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _parser(convert: Parse, expected: str) -> Parse:
    def parse(text: str) -> Any:
        try:
            return convert(text)
        except (KeyError, ValueError):
            raise ValueError(f"must be {expected}, not {text!r}") from None

    return parse


whole_number = _parser(int, "a whole number")
yes_or_no = _parser(lambda text: _YES_OR_NO[text.lower()], "true or false")


def _several(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


_KINDS: dict[Any, tuple[Parse, str]] = {
    str: (str, "TEXT"),
    int: (whole_number, "NUMBER"),
    float: (_parser(float, "a number of seconds"), "SECONDS"),
    bool: (yes_or_no, ""),
    tuple[str, ...]: (_several, "TEXT"),
}
"""How a field of each type is parsed, and what stands for its value in the help."""


class Setting(click.Option):
    """One setting of a server or a command, as an option whose help names its variable and its default.

    `default` is the text that the help shows; None means that the setting is required. `parse` makes a value of the
    text of a flag or variable, and raises ValueError with the rule that the text breaks. `metavar` stands for the value
    in the help, such as NUMBER. One that is `secret` may also be in a file that nobody else can read, named by the
    variable `<variable>_FILE`.

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
        secret: bool = False,
    ) -> None:
        # The flag of a bool has no value: to give it is to say true.
        form: dict[str, Any] = {"is_flag": True, "flag_value": "true"} if parse is yes_or_no else {"metavar": metavar}
        super().__init__([flag(name), name], help=help, type=str, default=None, multiple=parse is _several, **form)
        self.parse = parse
        self.variable = variable
        self.file_variable = f"{variable}{FILE}" if secret else ""
        self.shown_default = default

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        extra = click.types.OptionHelpExtra(envvars=tuple(filter(None, (self.variable, self.file_variable))))
        if self.shown_default is None:
            return extra | {"required": "required"}
        return extra | {"default": self.shown_default}


def settings_of(kind: type[ServerSettings], server: str, listen: str) -> list[Setting]:
    """The settings of a server, from the fields of its class `kind`; `listen` is the default of its address."""
    types = get_type_hints(kind)
    settings = []
    for field in dataclasses.fields(kind):
        if "help" in field.metadata:
            default = None if field.default is dataclasses.MISSING else shown(field.default)
            default = listen if field.name == "listen" else field.metadata.get("default", default)
            parse, metavar = _KINDS[types[field.name]]
            metavar = field.metadata.get("metavar", metavar)
            variable = kind.variable(server, field.name)
            secret = field.metadata.get("secret", False)
            settings.append(Setting(variable, field.name, field.metadata["help"], default, parse, metavar, secret))
    return settings


def read(settings: Sequence[Setting], flags: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The parsed values of the settings that are given, by name. An empty variable counts as not given.

    Raises SettingsError for a value that does not parse, a required setting that is missing, and a file of a secret
    that others can reach.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        text = flags.get(setting.name)
        if setting.multiple:
            text = ",".join(text or ()) or None
        if text is None:
            text = environment.get(setting.variable) or None
            if setting.file_variable and (path := environment.get(setting.file_variable)):
                text = _read_secret(setting, path, text)
        if text is not None:
            try:
                values[setting.name] = setting.parse(text)
            except ValueError as error:
                raise SettingsError(setting.name, setting.variable, str(error)) from None
        elif setting.shown_default is None:
            raise SettingsError(setting.name, setting.variable, f"is required: {setting.help}")
    return values


def _read_secret(setting: Setting, path: str, text: str | None) -> str:
    try:
        if text is not None:
            raise ValueError(f"is given by {setting.variable}, too; say one of them")
        return read_secret_line(path)
    except ValueError as error:
        raise SettingsError(setting.name, setting.file_variable, str(error)) from None


def read_settings(
    kind: type[Settings], server: str, listen: str, flags: Mapping[str, Any], environment: Mapping[str, str]
) -> Settings:
    """The settings of the server `server`, as an object of the class `kind`; `listen` is the default of its address.
    Raises SettingsError.
    """
    values = {"listen": listen, **read(settings_of(kind, server, listen), flags, environment)}
    return kind(name=server, **values)


def server_command(
    kind: type[Settings], name: str, listen: str, run: Callable[[Settings, threading.Event], None], who: str
) -> click.Command:
    """The command that runs the server `name`: `run` gets its settings, of the class `kind`, and the event that is set
    when this process is asked to stop. `listen` is the default of its address; `who` begins the line of a failure.
    """

    @failing_as(who)
    def serve(**flags: str | None) -> None:
        settings = read_settings(kind, name, listen, flags, os.environ)
        stop = threading.Event()
        when_asked_to_stop(stop.set)
        run(settings, stop)

    return click.Command(
        name, CONTEXT, callback=serve, params=[*settings_of(kind, name, listen)], help=f"Run the {name} server."
    )
