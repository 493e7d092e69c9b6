"""Runs the project's own commands, as `make` and a consumer would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `command` to its end. What it printed, errors too, is in `stdout`; nothing raises on a failure."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def find_tool(name: str) -> Path | None:
    """The one that `make` put into .tools/bin, else that of the PATH; None where there is neither."""
    path = f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def succeed(command: Sequence[str | Path], cwd: Path = ROOT) -> str:
    """Runs `command`, which must succeed, and returns what it printed."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_alone(script: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a copy of a script of the project in a folder, where no command is found but those of a shell."""
    elsewhere = folder / script
    elsewhere.parent.mkdir()
    shutil.copy(ROOT / script, elsewhere)
    commands = folder / "commands"
    commands.mkdir()
    for name in ("sh", "dirname"):
        (commands / name).symlink_to(shutil.which(name) or name)
    return run(commands / "sh", elsewhere, cwd=ROOT, PATH=os.fspath(commands), **environment)
