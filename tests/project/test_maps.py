"""Each package opens with a map: its docstring names every file and folder in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project.commands import ROOT

OURS = ("benchmarks", "clients", "servers", "tests", "tools")
UNNAMED = {"__init__", "__main__", "conftest"}
"""What everybody knows."""


def packages() -> Iterator[Path]:
    for root in OURS:
        for file in sorted((ROOT / root).rglob("__init__.py")):
            if not {"migrations", "templates"} & set(file.parts):
                yield file.parent


def members(package: Path) -> Iterator[str]:
    """The modules of a package and the folders in it, as maps write them; not the tests, whose names are sentences."""
    for path in package.iterdir():
        if path.suffix == ".py" and path.stem not in UNNAMED and not path.name.startswith("test_"):
            yield path.name
        elif path.is_dir() and any(path.glob("*.py")):
            yield f"{path.name}/"


@pytest.mark.parametrize("package", [*packages()], ids=lambda path: str(path.relative_to(ROOT)))
def test_the_docstring_of_a_package_names_all_that_is_in_it(package: Path) -> None:
    described = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    assert [name for name in members(package) if not re.search(rf"(?<![\w/]){re.escape(name)}", described)] == []
