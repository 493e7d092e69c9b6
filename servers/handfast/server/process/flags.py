"""A server as a command: its settings are read once from flags, the environment and a file, and validated. A flag wins
over its variable, and that over the file.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

import click

from handfast.server.process.command import CONTEXT, failing_as
from handfast.server.process.config_file import CONFIG, config_file
from handfast.server.process.listing import listing
from handfast.server.process.option import Parse, Setting, seconds, several, whole_number, yes_or_no
from handfast.server.process.settings import ServerSettings, SettingsError, shown
from handfast.server.process.sources import Environment, Flags, Given, read, values
from handfast.server.process.supervision import when_asked_to_stop

Settings = TypeVar("Settings", bound=ServerSettings)

_KINDS: dict[Any, tuple[Parse, str]] = {
    str: (str, "TEXT"),
    int: (whole_number, "NUMBER"),
    float: (seconds, "SECONDS"),
    bool: (yes_or_no, ""),
    tuple[str, ...]: (several, "TEXT"),
}
"""How a field of each type is parsed, and what stands for its value in the help."""
_PRINT_CONFIG = click.Option(
    ["--print-config"], is_flag=True, help="print the value of each setting and where it is from, and end"
)


def settings_of(kind: type[ServerSettings], server: str, listen: str) -> list[Setting]:
    """The settings of a server, from the fields of its class `kind`; `listen` is the default of its address."""
    types = get_type_hints(kind)
    settings = []
    for field in dataclasses.fields(kind):
        if "help" in field.metadata:
            default = None if field.default is dataclasses.MISSING else shown(field.default)
            default = listen if field.name == "listen" else field.metadata.get("default", default)
            parse, metavar = _KINDS[types[field.name]]
            settings.append(
                Setting(
                    kind.variable(server, field.name),
                    field.name,
                    field.metadata["help"],
                    default,
                    parse,
                    field.metadata.get("metavar", metavar),
                    field.metadata.get("secret", False),
                    kind.key(field.name),
                )
            )
    return settings


def read_settings(
    kind: type[Settings], server: str, listen: str, flags: Mapping[str, Any], environment: Mapping[str, str]
) -> Settings:
    """The settings of the server `server`, as an object of the class `kind`; `listen` is the default of its address.
    Raises SettingsError.
    """
    settings = settings_of(kind, server, listen)
    return made(kind, server, listen, settings, _read(settings, server, flags, environment))


def made(
    kind: type[Settings], server: str, listen: str, settings: Sequence[Setting], given: Mapping[str, Given]
) -> Settings:
    """The object that `read_settings` gives, of what is given. Raises SettingsError."""
    for setting in settings:
        if setting.shown_default is None and setting.name not in given:
            raise SettingsError(setting.names, f"is required: {setting.help}")
    origins = {name: each.names for name, each in given.items()}
    return kind(name=server, origins=origins, **{"listen": listen, **values(given)})


def print_settings(
    kind: type[Settings],
    server: str,
    listen: str,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    check: Callable[[Settings], object] = lambda settings: None,
) -> None:
    """Prints the settings that `read_settings` gives, each with where it is from. Raises SettingsError as that does and
    as `check` does, after they are printed if they can be: where each value is of its type.
    """
    settings = settings_of(kind, server, listen)
    given = _read(settings, server, flags, environment)
    fault = None
    try:
        whole = made(kind, server, listen, settings, given)
        found = vars(whole)
    except SettingsError as error:
        fault = error
        found = {field.name: field.default for field in dataclasses.fields(kind)} | {"listen": listen, **values(given)}
    click.echo(listing(server, settings, given, found))
    if fault:
        raise fault
    check(whole)


def _read(
    settings: Sequence[Setting], server: str, flags: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Given]:
    file = config_file(flags, environment)
    file.check(server, settings)
    return read(settings, [Flags(flags), Environment(environment), *file.tables(server)])


def server_command(
    kind: type[Settings],
    name: str,
    listen: str,
    run: Callable[[Settings, threading.Event], None],
    who: str,
    check: Callable[[Settings], object] = lambda settings: None,
) -> click.Command:
    """The command that runs the server `name`: `run` gets its settings, of the class `kind`, and the event that is set
    when this process is asked to stop. `listen` is the default of its address; `who` begins the line of a failure.
    `check` raises Failure for settings with which `run` would at once; they are printed all the same.
    """

    @failing_as(who)
    def serve(print_config: bool, **flags: Any) -> None:
        if print_config:
            print_settings(kind, name, listen, flags, os.environ, check)
            return
        settings = read_settings(kind, name, listen, flags, os.environ)
        stop = threading.Event()
        when_asked_to_stop(stop.set)
        run(settings, stop)

    options = [CONFIG, *settings_of(kind, name, listen), _PRINT_CONFIG]
    return click.Command(name, CONTEXT, callback=serve, params=[*options], help=f"Run the {name} server.")
