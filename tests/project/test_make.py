"""What make says on a machine that is not as it should be."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from tests.project.commands import ROOT, run

# Runs a program as if it were older than it is.
OLD_PYTHON = f"""#!/bin/sh
exec {sys.executable} -c 'import sys; sys.version_info = (3, 10, 13, "final", 0); exec(sys.argv[1])' "$2"
"""


@pytest.mark.parametrize("target", ["install", "up", "bench", "test", "generate", "pins"])
def test_a_python_that_is_too_old_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for made_from in ("pyproject.toml", "constraints.txt", "tools/generate-requirements.txt"):
        (tmp_path / made_from).parent.mkdir(exist_ok=True)
        (tmp_path / made_from).touch()
    python = tmp_path / "python3.10"
    python.write_text(OLD_PYTHON)
    python.chmod(0o755)
    # By `make test`, too: what it hands on would have this make say more.
    for handed_on in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(handed_on, raising=False)
    done = run("make", target, f"PYTHON={python}", cwd=tmp_path)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert done.stdout.startswith(
        f"Handfast needs Python {needed} or later, and {python} is 3.10; "
        "name a newer one: make install PYTHON=python3.12\n"
    )
    assert done.returncode == 2
    assert not list(tmp_path.glob(".venv*"))


@pytest.mark.parametrize("file", ["Makefile", "CONTRIBUTING.md"])
def test_the_word_that_is_shown_as_an_example_selects_tests(file: str) -> None:
    (word,) = re.findall(r"ARGS='-k (\w+)'", (ROOT / file).read_text())
    assert any(re.search(rf"def test_\w*{word}", tests.read_text()) for tests in (ROOT / "tests").rglob("test_*.py"))
