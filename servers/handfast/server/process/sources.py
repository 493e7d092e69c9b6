"""Where values of settings come from: flags, environment variables, and a file (`config_file.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from handfast.server.process.option import Setting
from handfast.server.process.secrets import one_line, read_secret_line
from handfast.server.process.settings import SettingsError, flag, names, shown


@dataclass(frozen=True, slots=True)
class Given:
    """A value that is given. `place` is where, such as `HANDFAST_THREADS` or `threads in [users] of handfast.toml`, and
    `names` is what errors call the setting."""

    value: Any
    place: str
    names: str


class Source(Protocol):
    """A place where settings may be given."""

    def find(self, setting: Setting) -> Given | None:
        """What it has for the setting. Raises SettingsError where that cannot be used."""


@dataclass(frozen=True, slots=True)
class Flags:
    """Values of a command line, by the names of the settings."""

    given: Mapping[str, Any]

    def find(self, setting: Setting) -> Given | None:
        value = self.given.get(setting.name)
        if value is None or value == ():
            return None
        return _given(setting, shown(value), flag(setting.name))


@dataclass(frozen=True, slots=True)
class Environment:
    """Environment variables. An empty one counts as not given."""

    variables: Mapping[str, str]

    def find(self, setting: Setting) -> Given | None:
        text, place = self.variables.get(setting.variable), setting.variable
        if path := self.variables.get(setting.file_variable):
            if text:
                called = names(setting.name, setting.file_variable)
                raise SettingsError(called, f"is given by {setting.variable}, too; say one of them")
            place = setting.file_variable
            text = secret_line(names(setting.name, place), path)
        elif text and setting.secret:
            # Who makes it of a file, as Kubernetes does, has the end of that line in it.
            try:
                text = one_line(text)
            except ValueError as error:
                raise SettingsError(setting.names, str(error)) from None
        return _given(setting, text, place) if text else None


def secret_line(called: str, path: str) -> str:
    """A secret that is in a file of its own. Raises SettingsError, in which the setting is `called` so."""
    try:
        return read_secret_line(path)
    except ValueError as error:
        raise SettingsError(called, str(error)) from None


def _given(setting: Setting, text: str, place: str) -> Given:
    return Given(parsed(setting, text, setting.names), place, setting.names)


def parsed(setting: Setting, text: str, called: str) -> Any:
    """The value of a text. Raises SettingsError, in which the setting is `called` so."""
    try:
        return setting.parse(text)
    except ValueError as error:
        rule = str(error)
        raise SettingsError(called, rule.partition(", not ")[0] if setting.secret else rule) from None


def read(settings: Iterable[Setting], sources: Sequence[Source]) -> dict[str, Given]:
    """What is given of the settings, by name: each by the first source that has it. Raises SettingsError for a value
    that does not parse, and a file of a secret that others can reach.
    """
    given = {}
    for setting in settings:
        if (found := next(filter(None, (source.find(setting) for source in sources)), None)) is not None:
            given[setting.name] = found
    return given


def values(given: Mapping[str, Given]) -> dict[str, Any]:
    return {name: each.value for name, each in given.items()}
