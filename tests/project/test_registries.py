"""Where packages come from is for whoever installs to say: no file that installs anything names a registry."""

from __future__ import annotations

import re

from tests.project.commands import ROOT

NAMES_A_REGISTRY = re.compile(
    r"index-url|find-links|--index\b|\[tool\.uv\.index|@ *(https?|file|git\+)|pypi\.org|pythonhosted|GOPROXY",
    re.IGNORECASE,
)
INSTALLS = (
    "pyproject.toml",
    "constraints*.txt",
    "Makefile",
    "buf*.yaml",
    ".ci/*",
    "tools/*",
    "deploy/**/*",
    ".github/**/*",
    "Containerfile",
    "compose*.yaml",
)


def test_no_file_names_a_registry() -> None:
    files = [path for pattern in INSTALLS for path in sorted(ROOT.glob(pattern)) if path.is_file()]
    assert len(files) >= 10
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        if file.suffix != ".pyc"
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if NAMES_A_REGISTRY.search(line)
    ]
    assert found == []
