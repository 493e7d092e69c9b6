"""The distribution holds the five source roots as one package, and nothing else."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest

from tests.project.commands import ROOT

SOURCE_ROOTS = ("protos", "generated", "clients", "servers", "examples/demo")

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[PurePosixPath]:
    return {PurePosixPath(name) for name in ZipFile(wheel).namelist()}


def test_wheel_holds_one_package(files: set[PurePosixPath]) -> None:
    top_level = {file.parts[0] for file in files}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"handfast"}


def test_wheel_holds_every_source(files: set[PurePosixPath]) -> None:
    sources = {
        PurePosixPath(path.relative_to(ROOT / root))
        for root in SOURCE_ROOTS
        for path in (ROOT / root / "handfast").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {file for file in files if file.parts[0] == "handfast"} == sources


def test_package_is_a_namespace(files: set[PurePosixPath]) -> None:
    assert PurePosixPath("handfast/__init__.py") not in files


def test_every_leaf_package_is_typed(files: set[PurePosixPath]) -> None:
    contracts = {
        PurePosixPath(folder.relative_to(ROOT / "protos")) for folder in (ROOT / "protos").glob("handfast/*/v[0-9]*")
    }
    leaves = {*map(PurePosixPath, ("handfast/client", "handfast/server", "handfast/demo")), *contracts}
    assert len(contracts) >= 5
    assert {leaf for leaf in leaves if leaf / "py.typed" not in files} == set()


def test_wheel_carries_the_license(files: set[PurePosixPath]) -> None:
    assert any(file.name == "LICENSE" for file in files)
