"""What `make mutate` stands on: its copy is what is imported, and its list of changes that are no faults is true."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.project.commands import ROOT
from tools.mutation.faults import EQUIVALENT, Fault, without_handlers
from tools.mutation.parts import PARTS
from tools.mutation.trial import Copy

SERVERS = ROOT / "servers/handfast/server"
LISTED = tomllib.loads(EQUIVALENT.read_text())["equivalent"]


@pytest.mark.parametrize("equivalent", LISTED, ids=lambda each: f"{each['module']}: {each['line']}")
def test_what_is_listed_as_no_fault_is_a_line_of_its_module_with_a_reason(equivalent: dict[str, Any]) -> None:
    lines = [line.strip() for line in (SERVERS / equivalent["module"]).read_text().splitlines()]
    assert equivalent["line"] in lines
    assert equivalent["line"] not in equivalent["becomes"]
    assert equivalent["why"].endswith(".")


@pytest.mark.parametrize("name", PARTS)
def test_the_modules_and_tests_of_each_part_are_there(name: str) -> None:
    part = PARTS[name]
    servers = ROOT / "servers/handfast/server"
    assert [pattern for pattern in part.modules if not any(servers.glob(pattern))] == []
    assert [path for path in part.tests if path.startswith("tests/") and not (ROOT / path).exists()] == []


def test_each_process_that_runs_in_the_copy_imports_from_it(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    program = "import grpc, sys, handfast.client, handfast.server.chassis.server as server; print(server.__file__)"
    done = subprocess.run(
        [copy.python, "-P", "-c", program], env={}, cwd="/", capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(copy.tree)
    assert not list(copy.tree.rglob("__pycache__"))  # or a fault could outlive its turn


def test_each_error_that_is_handled_is_left_to_pass_once() -> None:
    code = "try:\n    é()\nexcept (OSError, a.Wrong) as error:\n    pass\nexcept KeyError:\n    pass\n"
    changed = [each for _place, each in without_handlers(code)]
    assert [ast.parse(each) is not None for each in changed] == [True] * 3
    assert {Fault(Path("m.py"), code, each).lines() for each in changed} == {
        ("except (OSError, a.Wrong) as error:", "except (FloatingPointError, a.Wrong) as error:"),
        ("except (OSError, a.Wrong) as error:", "except (OSError, FloatingPointError) as error:"),
        ("except KeyError:", "except FloatingPointError:"),
    }
