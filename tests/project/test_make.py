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


@pytest.mark.parametrize("target", ["install", "up", "bench", "test", "generate", "pins", "dist"])
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


def test_a_tool_is_installed_anew_where_the_makefile_names_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    text = (ROOT / "Makefile").read_text()
    installed = re.findall(r"\.tools/installed/([\w-]+@\S+)", text)
    assert {tool.partition("@")[0] for tool in installed} >= {"grpcurl", "ghz", "helm", "mermaid", "pyright"}
    (tmp_path / ".tools" / "installed").mkdir(parents=True)
    for tool in installed:
        (tmp_path / ".tools" / "installed" / tool).touch()
        (tmp_path / "Makefile").write_text(text)
        assert "up to date" in run("make", "--dry-run", f".tools/installed/{tool}", cwd=tmp_path).stdout
        (tmp_path / "Makefile").write_text(text.replace(tool, f"{tool}9"))
        printed = run("make", "--dry-run", f".tools/installed/{tool}9", cwd=tmp_path).stdout
        assert re.search(rf"(go install \S+/|npm install .* |fetch-npm\.sh ){tool}9\b", printed), printed


def test_clean_removes_each_environment_and_all_that_is_built() -> None:
    text = (ROOT / "Makefile").read_text()
    removed = set(re.findall(r"^\trm -rf (.*)$", text, re.MULTILINE)[0].split())
    environments = set(re.findall(r"venv (\.venv[\w-]*)$", text, re.MULTILINE))
    assert removed == environments | {".tools", ".cache", "build", "dist"}


@pytest.mark.parametrize("file", ["Makefile", "CONTRIBUTING.md"])
def test_the_word_that_is_shown_as_an_example_selects_tests(file: str) -> None:
    (word,) = re.findall(r"ARGS='-k (\w+)'", (ROOT / file).read_text())
    assert any(re.search(rf"def test_\w*{word}", tests.read_text()) for tests in (ROOT / "tests").rglob("test_*.py"))
