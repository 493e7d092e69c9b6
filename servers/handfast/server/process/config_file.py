"""The TOML file of settings. At its top stands what holds for every server that reads it, and in the table of a server,
such as `[users]`, what holds for that one alone; that wins. `docs/settings.md` says what may be in it.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote

from handfast.server.process.addresses import is_url
from handfast.server.process.command import Failure
from handfast.server.process.option import Setting, several
from handfast.server.process.secrets import read_and_exposure
from handfast.server.process.settings import SettingsError, shown
from handfast.server.process.sources import Given, parsed, secret_line

CONFIG = Setting(
    "HANDFAST_CONFIG",
    "config",
    "TOML file of settings, over which variables and flags win",
    "none",
    several,  # so that a second one is seen, and refused
    metavar="FILE",
)
_PATHS = ("FILE", "FILE|URL", "DIRECTORY")
"""What stands for the value in the help of settings that are paths."""
_RELATIVE_SQLITE = re.compile(r"(sqlite(?:\+pysqlite)?:///)(?!:memory:$)([^/?].*)", re.DOTALL)
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    list: "an array",
    dict: "a table",
}
_NEAR = 0.8
"""How much alike two names are, from 0 to 1, where one may be a slip of the pen for the other."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What is in such a file, or nothing where there is none. `exposed` says so where others can reach it."""

    path: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)
    exposed: str = ""

    def table(self, server: str) -> Table:
        """What holds for this server alone."""
        found = self.content.get(server)
        return Table(self, f"[{server}] of {self.path}", found if isinstance(found, dict) else {})

    def tables(self, server: str) -> tuple[Table, Table]:
        """All that holds for this server, what is for it alone first."""
        top = {key: value for key, value in self.content.items() if key != server or not isinstance(value, dict)}
        return self.table(server), Table(self, self.path, top)

    def check(self, server: str, settings: Sequence[Setting]) -> None:
        """Raises Failure for what is meant for this server, and is none of its settings. The tables of other servers
        are theirs to check, but for one whose name is nearly that of this server, which has none.
        """
        own, top = self.tables(server)
        own.check(server, settings)
        names = {setting.name for setting in settings}
        others = [key for key, value in top.content.items() if isinstance(value, dict) and key not in names]
        Table(self, self.path, {key: value for key, value in top.content.items() if key not in others}).check(
            server, settings, "; what only another server has stands in the table of that server"
        )
        if server not in self.content and (near := get_close_matches(server, others, 1, _NEAR)):
            raise Failure(f"[{_bare(near[0])}] of {self.path} is not for {server}; did you mean [{server}]?")


@dataclass(frozen=True, slots=True)
class Table:
    """A source of settings: a table of the file, or what stands at its top."""

    file: ConfigFile
    place: str
    content: Mapping[str, Any]

    def find(self, setting: Setting) -> Given | None:
        if setting.file_key and setting.file_key in self.content:
            return self._in_a_file_of_its_own(setting)
        if setting.key not in self.content:
            return None
        called = f"{setting.key} in {self.place}"
        value = _value(setting, self.content[setting.key], called)
        if "\0" in shown(value):
            raise SettingsError(called, "must have no NUL")
        if self.file.exposed and setting.secret and setting.public(value) != shown(value):
            raise SettingsError(called, f"is secret, in a file that {self.file.exposed}")
        return Given(self._beside(setting, value), called, called)

    def _in_a_file_of_its_own(self, setting: Setting) -> Given:
        called, path = f"{setting.file_key} in {self.place}", self.content[setting.file_key]
        if setting.key in self.content:
            raise SettingsError(called, f"is given by {setting.key}, too; say one of them")
        if not isinstance(path, str):
            raise SettingsError(called, f"must be {_KINDS[str]}, not {_kind(path)}")
        line = secret_line(called, os.path.join(self._folder, path))
        return Given(self._beside(setting, parsed(setting, line, called)), called, called)

    def check(self, server: str, settings: Sequence[Setting], otherwise: str = "") -> None:
        """Raises Failure for a key that is none of these settings, with the nearest one, or else `otherwise`."""
        known = {key for setting in settings for key in (setting.key, setting.file_key) if key}
        for key in self.content:
            if key not in known:
                near = get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]}?" if near else otherwise
                raise Failure(f"{_bare(key)} in {self.place} is no setting of {server}{hint}")

    def _beside(self, setting: Setting, value: Any) -> Any:
        """Paths in the file are relative to its folder."""
        if not value or not isinstance(value, str):
            return value
        if setting.metavar in _PATHS and not is_url(value):
            return os.path.join(self._folder, value)
        if relative := _RELATIVE_SQLITE.fullmatch(value):
            return relative[1] + os.path.join(quote(os.fsencode(self._folder)), relative[2])
        return value

    @property
    def _folder(self) -> str:
        return os.path.dirname(os.path.abspath(self.file.path))


def config_file(flags: Mapping[str, Any], environment: Mapping[str, str]) -> ConfigFile:
    """The file that a flag or a variable names, if one does. Raises SettingsError where it cannot be read."""
    paths: Sequence[str] = flags.get(CONFIG.name) or ()
    if len(paths) > 1:
        raise SettingsError(CONFIG.names, "is given more than once; all settings are in one file")
    path = paths[0] if paths else environment.get(CONFIG.variable)
    if not path:
        return ConfigFile()
    return _load(path) if os.path.isfile(path) else _load_once(path)


@functools.cache
def _load_once(path: str) -> ConfigFile:
    """A pipe, such as that of `--config <(decrypt handfast.toml)`, is empty when it is read again."""
    return _load(path)


def _load(path: str) -> ConfigFile:
    import tomllib  # which takes a twentieth of the time of help, that does without

    try:
        content, exposed = read_and_exposure(path)
    except ValueError as error:
        raise SettingsError(CONFIG.names, str(error)) from None
    try:
        return ConfigFile(path, tomllib.loads(content.decode("utf-8-sig")), exposed)
    except UnicodeDecodeError:
        raise Failure(f"{path} is not text in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path} is not TOML: {error}") from None


def _value(setting: Setting, value: Any, called: str) -> Any:
    """The value of what TOML has. Raises SettingsError where that is of another type."""
    if setting.multiple:
        return _texts(setting, value, called)
    if type(value) is int and "NUMBER|" in (setting.metavar or ""):
        value = str(value)
    found = parsed(setting, shown(value), called)
    if type(found) is not type(value) and not (isinstance(found, float) and type(value) is int):
        raise SettingsError(called, f"must be {_KINDS[type(found)]}, not {_kind(value)}")
    return found


def _texts(setting: Setting, value: Any, called: str) -> tuple[str, ...]:
    """Those of an array, or of a table where each is NAME=VALUE."""
    named = "=" in (setting.metavar or "")
    if named and isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        return tuple(f"{name}={each}" for name, each in value.items())
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    forms = f"an array of texts{', or a table of them' if named else ''}"
    raise SettingsError(called, f"must be {forms}, not {_kind(value)}")


def _bare(key: str) -> str:
    """A key as it stands in the file, in quotes where it has other characters than keys have mostly."""
    return key if re.fullmatch(r"[\w-]+", key) else repr(key)


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a date or a time")
