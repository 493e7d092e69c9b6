"""Flags and environment, read once, into validated settings. A flag wins over its variable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from handfast.server.process.settings import ServerSettings, SettingsError, environment_variable, shown

Settings = TypeVar("Settings", bound=ServerSettings)


def whole_number(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"must be a whole number, not {value!r}") from None


def seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"must be a number of seconds, not {value!r}") from None


def yes_or_no(value: str) -> bool:
    choices = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        return choices[value.lower()]
    except KeyError:
        raise ValueError(f"must be true or false, not {value!r}") from None


_KINDS: dict[type, tuple[Callable[[str], object], str]] = {
    str: (str, "TEXT"),
    int: (whole_number, "NUMBER"),
    float: (seconds, "SECONDS"),
    bool: (yes_or_no, ""),
}
"""How a field of each type is parsed, and what stands for its value in the help."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a command.

    `default` is the text that the help shows; None means that the setting is required. `parse` makes a value of the
    text of a flag or variable, and raises ValueError with the rule that the text breaks. `metavar` stands for the value
    in the help, such as NUMBER.
    """

    name: str
    help: str
    default: str | None
    parse: Callable[[str], object] = str
    metavar: str = "TEXT"


def settings_of(kind: type[ServerSettings], listen: str) -> tuple[Setting, ...]:
    """The settings of a server, from the fields of its class `kind`; `listen` is the default of its address."""
    types = get_type_hints(kind)
    settings = []
    for field in dataclasses.fields(kind):
        if "help" in field.metadata:
            default = listen if field.name == "listen" else field.metadata.get("default", _shown(field.default))
            parse, metavar = _KINDS[types[field.name]]
            metavar = field.metadata.get("metavar", metavar)
            settings.append(Setting(field.name, field.metadata["help"], default, parse, metavar))
    return tuple(settings)


def _shown(default: object) -> str | None:
    """A default as it would be typed; None where there is none."""
    match default:
        case dataclasses.MISSING:
            return None
        case bool():
            return str(default).lower()
        case float():
            return shown(default)
    return str(default)


def read(
    server: str, settings: Sequence[Setting], flags: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Any]:
    """The parsed values of the settings that are given, by name. An empty variable counts as not given.

    Raises SettingsError for a value that does not parse, and for a required setting that is missing.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        variable = environment_variable(server, setting.name)
        text = flags[setting.name] if flags.get(setting.name) is not None else environment.get(variable) or None
        if text is None:
            if setting.default is None:
                raise SettingsError(server, setting.name, f"is required: {setting.help}")
            continue
        try:
            values[setting.name] = setting.parse(text)
        except ValueError as error:
            raise SettingsError(server, setting.name, str(error)) from None
    return values


def read_settings(
    kind: type[Settings], server: str, listen: str, flags: Mapping[str, Any], environment: Mapping[str, str]
) -> Settings:
    """The settings of the server `server`, as an object of the class `kind`; `listen` is the default of its address.
    Raises SettingsError.
    """
    values = {"listen": listen, **read(server, settings_of(kind, listen), flags, environment)}
    return kind(name=server, **values)
