"""What README.md and docs/errors.md show, as blocks that can be run, and whether a run shows the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.project.commands import ROOT

README = ROOT / "README.md"
ERRORS = ROOT / "docs" / "errors.md"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
# What differs from run to run, though it has the same form.
_VOLATILE = {
    "UUID": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "TIME": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z",
    "ETAG": r'(?<="etag": ")[0-9a-f]{16}(?=")',
}


@dataclass(frozen=True)
class Block:
    """A fenced block, with the output that the `text` block right after it shows; None where there is none."""

    language: str
    code: str
    output: str | None


def blocks(language: str, file: Path = README) -> list[Block]:
    found = [Block(*match.groups()) for match in _BLOCK.finditer(file.read_text())]
    return [block for block in found if block.language == language]


def shows_the_same(shown: str, printed: str) -> bool:
    """Whether `printed` is what a file shows: but for white space and values that differ from run to run, and with any
    number of lines where the file has a line `...`.
    """
    pattern = "".join(r"(.*\n)*" if line == "..." else re.escape(f"{line}\n") for line in _lines(shown))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text: str) -> list[str]:
    for name, pattern in _VOLATILE.items():
        text = re.sub(pattern, name, text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
