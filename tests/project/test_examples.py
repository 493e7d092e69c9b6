"""What consumers are shown runs against a real suite, with nothing but the client installed, and is typed strictly."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest

from tests.project.commands import ROOT, run
from tests.project.conftest import Consumer
from tests.project.readme import ERRORS, README, TRANSACTIONS, blocks, programs, shows_the_same

EXAMPLES = sorted((ROOT / "tests" / "client" / "consumer").glob("*.py"))
SHOWN = {
    "README": programs(README),
    "errors": [block for block in blocks("python", ERRORS) if block.output is not None],
    "transactions": programs(TRANSACTIONS),
}

pytestmark = pytest.mark.timeout(300)


def test_there_are_examples() -> None:
    assert {path.name for path in EXAMPLES} >= {"example.py", "aio_example.py"}
    assert {page: len(shown) for page, shown in SHOWN.items()} == {"README": 2, "errors": 1, "transactions": 2}
    for page, file in (("README", README), ("transactions", TRANSACTIONS)):  # both clients
        assert sorted("asyncio" in program.code for program in SHOWN[page]) == [False, True], file


def test_what_readme_leads_with_is_a_part_of_its_program() -> None:
    leading, program, _ = blocks("python")
    assert textwrap.indent(leading.code, "    ") in program.code


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_an_example_runs(consumer: Consumer, addresses: dict[str, str], tmp_path: Path, example: Path) -> None:
    shutil.copy(example, tmp_path)
    status, printed = _run(consumer, addresses, tmp_path / example.name)
    assert status == 0, printed
    assert "handfast.users USER_NOT_FOUND" in printed


@pytest.mark.parametrize("page", SHOWN)
def test_the_programs_that_are_shown_run_and_print_what_is_shown(
    consumer: Consumer, addresses: dict[str, str], tmp_path: Path, page: str
) -> None:
    for number, program in enumerate(SHOWN[page]):
        script = tmp_path / f"shown_{number}.py"
        script.write_text(program.code)
        status, printed = _run(consumer, addresses, script)
        assert status == 0, printed
        assert program.output is not None
        assert shows_the_same(program.output, printed), printed


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_programs_that_are_shown_pass_strict_type_checkers(
    typed_consumer: Consumer, tmp_path: Path, checker: str
) -> None:
    for page, shown in SHOWN.items():
        for number, program in enumerate(shown):
            (tmp_path / f"{page.lower()}_{number}.py").write_text(program.code)
    status, output = typed_consumer.typecheck(checker, tmp_path)
    assert status == 0, output


def _run(consumer: Consumer, addresses: dict[str, str], script: Path) -> tuple[int, str]:
    """From another folder and isolated, so that nothing of the project is found; warnings are errors."""
    environment = {f"HANDFAST_{name.upper()}_ADDRESS": address for name, address in addresses.items()}
    done = run(consumer.python, "-I", "-W", "error", script, cwd=script.parent, **environment)
    return done.returncode, done.stdout
