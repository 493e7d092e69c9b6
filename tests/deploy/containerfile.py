"""What the Containerfile says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from tests.project.commands import ROOT

PATH = ROOT / "Containerfile"


def instructions(name: str) -> Iterator[str]:
    """What follows an instruction of this name, each time, in one line."""
    text = re.sub(r"^#.*\n", "", PATH.read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == name:
            yield " ".join(rest.split())


def environment() -> dict[str, str]:
    """The variables of the last stage."""
    return dict(each.split("=", 1) for line in instructions("ENV") for each in shlex.split(line))


def copied() -> set[str]:
    """The files and folders of the project that are copied, but not their content."""
    lines = [shlex.split(line) for line in instructions("COPY") if not line.startswith("--from")]
    return {source for *sources, _ in lines for source in sources}
