"""Settings as a table of TOML that says where each is from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from handfast.server.process.option import Setting
from handfast.server.process.settings import shown
from handfast.server.process.sources import Given

_WIDEST = 60  # characters before the comments, as long as lines are not longer


def listing(table: str, settings: Sequence[Setting], given: Mapping[str, Given], values: Mapping[str, Any]) -> str:
    """The table of a file that would give the same. Defaults are commented out, and so is what is secret, of which only
    that is shown which anybody may see. `values` are those in effect, by the names of the settings.
    """
    lines = [_line(setting, given.get(setting.name), values) for setting in settings]
    width = min(_WIDEST, max(len(line) for line, _ in lines))
    text = "\n".join([f"[{table}]", *(f"{line:<{width}}  # {place}" for line, place in lines)])
    return os.fsencode(text).decode(errors="replace")  # names of files can be no text, which TOML cannot have


def _line(setting: Setting, given: Given | None, values: Mapping[str, Any]) -> tuple[str, str]:
    if given is None and setting.shown_default is None:
        return f"#{setting.key} =", "required"
    value = values[setting.name]
    hidden = setting.public(value) != shown(value)
    line = f"{setting.key} = {_toml(setting.public(value) if hidden else value)}"
    if given is None:
        default = "default" if setting.shown_default == shown(value) else f"default: {setting.shown_default}"
        return f"#{line}", default
    place = given.place.removeprefix(f"{setting.key} in ")
    return (f"#{line}", f"{place}, secrets hidden") if hidden else (line, place)


def _toml(value: object) -> str:
    """A value as TOML has it. Its texts are those of JSON, but for DEL."""
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case float():
            return str(value)
    return shown(value)
