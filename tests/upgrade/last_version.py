"""The code of the last version, out of the repository's history."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

from tests.project.commands import ROOT

BEFORE_RELEASES = "52c5f5924343314bb3d3975be4e9a999cc54f702"
"""What counts as the last version until there is a release, or a tag, before this one."""
ROOTS = ("protos", "generated", "clients", "servers", "examples/demo")
"""The folders that have its packages."""


class NoHistory(Exception):
    """This is no clone that has the last version."""


def last_version() -> str:
    """The newest release before this commit, as git names it."""
    described = _git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^")
    return described.stdout.decode().strip() or BEFORE_RELEASES


def extract(version: str, folder: Path) -> str:
    """Puts the code of a version into the folder. Returns the PYTHONPATH that has it imported instead of this one.
    Raises NoHistory."""
    archive = _git("archive", "--format=tar", version, "--", *ROOTS)
    if archive.returncode:
        raise NoHistory(f"there is no {version} here: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return os.pathsep.join(str(folder / root) for root in ROOTS)


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True)
    except FileNotFoundError as error:
        raise NoHistory("git is not installed") from error
