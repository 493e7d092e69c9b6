"""Writes the tables of docs/settings.md: all that stands below `## All settings`.

    python tools/settings_page.py

The tables say what the code says; tests/project/test_settings_page.py sees that they are up to date.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from handfast.server.cli.settings import OF_UP, on_this_machine
from handfast.server.process.flags import settings_of
from handfast.server.process.option import Setting
from handfast.server.process.settings import DatabaseSettings, ParticipantLimits, ServerSettings
from handfast.server.suite import SuiteSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
BEGIN = "\n## All settings\n"
INTRODUCTION = """
Variables are shown as `users` has them. Where one has `USERS` in it, another server has its own name there, and
`accounts` has `TRANSACTIONS` in that of its database. The key of a file is the flag's name with underscores:
`max_connections` for `--max-connections`; `participants` has its own.
"""
CLASSES = {
    "Every server": ServerSettings,
    "A server with a database": DatabaseSettings,
    "A server that takes part in transactions": ParticipantLimits,
    "The servers of the suite": SuiteSettings,
}


def page(text: str) -> str:
    """The page with its tables made anew."""
    return "".join((text.partition(BEGIN)[0], BEGIN, INTRODUCTION, *_tables()))


def _tables() -> Iterator[str]:
    known: set[str] = set()
    for heading, kind in CLASSES.items():
        settings = settings_of(kind, "users", on_this_machine()["users"])
        yield _table(heading, [each for each in settings if each.name not in known])
        known |= {each.name for each in settings}
    yield _table("`handfast up`", OF_UP)


def _table(heading: str, settings: Sequence[Setting]) -> str:
    lines = [f"\n### {heading}\n", "| flag | says | default | value | variable |", "|---|---|---|---|---|"]
    for each in settings:
        variables = ", ".join(f"`{name}`" for name in (each.variable, each.file_variable) if name)
        value = _cell(f"`{each.metavar or 'true|false'}`")
        default = "required" if each.shown_default is None else _cell(each.shown_default)
        lines.append(f"| `{each.opts[0]}` | {_cell(each.help or '')} | {default} | {value} | {variables} |")
    return "\n".join((*lines, ""))


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
