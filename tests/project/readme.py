"""What README.md and docs/ show: blocks that can be run, whether a run shows the same, and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.project.commands import ROOT

README = ROOT / "README.md"
ERRORS = ROOT / "docs" / "errors.md"
CLIENTS = ROOT / "docs" / "clients.md"
TRANSACTIONS = ROOT / "docs" / "transactions.md"
SECURITY = ROOT / "docs" / "security.md"
OBSERVABILITY = ROOT / "docs" / "observability.md"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
# What differs from run to run, though it has the same form.
_VOLATILE = {
    "UUID": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "REQUEST_ID": r"\b[0-9a-f]{32}\b",
    "TIME": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z",
    "ETAG": r'(?<="etag": ")[0-9a-f]{16}(?=")',
    "REVISION": r'(?<="revision":")[^"]+(?=")',
    "READS": r"(?<=handfast-reads-bin: )\S+",
}


@dataclass(frozen=True)
class Block:
    """A fenced block, with the output that the `text` block right after it shows; None where there is none."""

    language: str
    code: str
    output: str | None


def blocks(language: str, file: Path = README, below: str = "") -> list[Block]:
    """Those in a language; with `below`, from that heading to the next."""
    text = file.read_text()
    if below:
        text = text.partition(f"\n## {below}\n")[2].partition("\n## ")[0]
    found = [Block(*match.groups()) for match in _BLOCK.finditer(text)]
    return [block for block in found if block.language == language]


def programs(file: Path) -> list[Block]:
    """The programs in Python. A block that imports `connect` begins one, and those after it go on with it. What stands
    before the first is a part of it that is shown once more.
    """
    found: list[Block] = []
    for block in blocks("python", file):
        if re.search(r"^from handfast\.client.* import .*\bconnect$", block.code, re.MULTILINE):
            found.append(block)
        elif found and found[-1].output is not None:
            begun = found.pop()
            output = f"{begun.output}{block.output or ''}"
            found.append(Block(block.language, f"{begun.code}\n{block.code}", output))
    return found


def shows_the_same(shown: str, printed: str) -> bool:
    """Whether `printed` is what a file shows: but for white space and values that differ from run to run, and with any
    number of lines where the file has a line `...`.
    """
    pattern = "".join(r"(.*\n)*" if line == "..." else re.escape(f"{line}\n") for line in _lines(shown))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed))) is not None


def table(file: Path, *header: str) -> list[tuple[str, ...]]:
    """The rows of the table that has this header."""
    lines = iter(file.read_text().splitlines())
    assert f"| {' | '.join(header)} |" in lines, header  # and takes what is before it
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
    return rows


def quoted(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


def dangling_links(file: Path) -> list[str]:
    """Those of `file` to other files of the project that are not there."""
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", file.read_text()) if "://" not in link]
    assert links
    return [link for link in links if not (file.parent / link).exists()]


def _lines(text: str) -> list[str]:
    for name, pattern in _VOLATILE.items():
        text = re.sub(pattern, name, text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
