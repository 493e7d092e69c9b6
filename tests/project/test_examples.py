"""What consumers are shown runs against a real suite, with nothing but the client installed, and is typed strictly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.project.commands import ROOT, run
from tests.project.conftest import Consumer
from tests.project.readme import ERRORS, Block, blocks, shows_the_same

EXAMPLES = sorted((ROOT / "tests" / "client" / "consumer").glob("*.py"))
SHOWN = blocks("python") + [block for block in blocks("python", ERRORS) if block.output is not None]

pytestmark = pytest.mark.timeout(300)


def test_there_are_examples() -> None:
    assert {path.name for path in EXAMPLES} >= {"example.py", "aio_example.py"}
    assert len(SHOWN) >= 3


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_an_example_runs(consumer: Consumer, addresses: dict[str, str], tmp_path: Path, example: Path) -> None:
    shutil.copy(example, tmp_path)
    status, printed = _run(consumer, addresses, tmp_path / example.name)
    assert status == 0, printed
    assert "handfast.users USER_NOT_FOUND" in printed


@pytest.mark.parametrize("block", SHOWN)
def test_an_example_that_is_shown_runs_and_prints_what_is_shown(
    consumer: Consumer, addresses: dict[str, str], tmp_path: Path, block: Block
) -> None:
    script = tmp_path / "example.py"
    script.write_text(block.code)
    status, printed = _run(consumer, addresses, script)
    assert status == 0, printed
    assert block.output is not None
    assert shows_the_same(block.output, printed), printed


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_examples_that_are_shown_pass_strict_type_checkers(
    typed_consumer: Consumer, tmp_path: Path, checker: str
) -> None:
    for number, block in enumerate(SHOWN):
        (tmp_path / f"shown_{number}.py").write_text(block.code)
    status, output = typed_consumer.typecheck(checker, tmp_path)
    assert status == 0, output


def _run(consumer: Consumer, addresses: dict[str, str], script: Path) -> tuple[int, str]:
    """From another folder and isolated, so that nothing of the project is found; warnings are errors."""
    environment = {f"HANDFAST_{name.upper()}_ADDRESS": address for name, address in addresses.items()}
    done = run(consumer.python, "-I", "-W", "error", script, cwd=script.parent, **environment)
    return done.returncode, done.stdout
