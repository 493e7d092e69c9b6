"""Writes another version of the project wherever the version stands.

    python tools/set_version.py 0.1.0

Where that is a release, what CHANGELOG.md has under `[Unreleased]` becomes its section, with the date of today.
"""

from __future__ import annotations

import re
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = (
    "pyproject.toml",
    "Containerfile",
    "deploy/chart/Chart.yaml",
    "docs/deploy.md",
    "tests/deploy/rendered/*.yaml",
)
SEMVER = r"^version: |helm\.sh/chart: handfast-"
"""Before the version where Helm wants it as SemVer writes it."""
FORM = re.compile(r"(?P<release>\d+\.\d+\.\d+)(?P<before>(\.dev|a|b|rc)\d+)?")
UNRELEASED = "## [Unreleased]\n"


def as_semver(version: str) -> str:
    """A version of Python's form, such as 0.1.0.dev0, as Helm wants it: 0.1.0-dev0."""
    return FORM.sub(
        lambda found: found["release"] + ("-" + found["before"].strip(".") if found["before"] else ""), version
    )


def set_version(new: str, root: Path = ROOT) -> None:
    """Raises SystemExit where `new` is none."""
    form = FORM.fullmatch(new)
    if form is None:
        sys.exit(f"version: {new!r} is none; such as 0.1.0, 0.1.0rc1 or 0.2.0.dev0 is")
    old = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    either = f"{re.escape(old)}|{re.escape(as_semver(old))}"
    written = re.compile(rf"({SEMVER})?(?<![\d.=<>~])({either})(?![\w.-])", re.MULTILINE)
    for place in PLACES:
        for file in root.glob(place):
            file.write_text(written.sub(lambda found: found[1] + as_semver(new) if found[1] else new, file.read_text()))
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text()
    if not form["before"] and f"## [{new}]" not in text:
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        dated = text.replace(UNRELEASED, f"{UNRELEASED}\n## [{new}] - {today}\n", 1)
        changelog.write_text(f"{dated}[{new}]: #{new.replace('.', '')}---{today}\n")


if __name__ == "__main__":
    set_version(sys.argv[1])
