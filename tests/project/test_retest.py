"""Chance does not fail a run, and nothing else goes unnoticed: tools/retest.py on made-up tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.commands import ROOT, run

CHANCE = """
import os, pathlib, pytest

def fail_the_first_time(name):
    mark = pathlib.Path(__file__).with_name(name)
    if not mark.exists():
        mark.touch()
        raise RuntimeError(f"bad luck with {name}")
"""
PASSES = """
def test_passes(): pass

@pytest.mark.skip
def test_skipped(): pass
"""
FLAKY = """
@pytest.mark.parametrize("letter", ["a/b::[c]"])
def test_flaky(letter): fail_the_first_time("call")
"""
FLAKY_AROUND = """
@pytest.fixture
def setup(): fail_the_first_time("setup")

def test_flaky_in_setup(setup): pass

@pytest.fixture
def teardown():
    yield
    fail_the_first_time("teardown")

def test_flaky_in_teardown(teardown): pass
"""
FAILS = """
def test_fails(): assert 1 == 2
"""
FAILS_IN_SETUP = """
@pytest.fixture
def broken(): raise RuntimeError("always")

def test_fails_in_setup(broken): pass
"""
# Another test leaves something behind that makes this one fail, so it passes alone.
DISTURBED = """
def test_disturbs(): os.environ["DISTURBED"] = "1"

def test_disturbed(): assert "DISTURBED" not in os.environ
"""
SKIPPED_WHEN_ALONE = """
def test_does_not_pass_alone():
    mark = pathlib.Path(__file__).with_name("once")
    if mark.exists():
        pytest.skip("not twice")
    mark.touch()
    raise RuntimeError("once")
"""
CRASHES_WHEN_ALONE = """
def test_crashes_alone():
    mark = pathlib.Path(__file__).with_name("crash")
    if mark.exists():
        os._exit(0)
    mark.touch()
    raise RuntimeError("once")
"""
CRASHES_AT_THE_END = """
import os
from tests import workers

pytest_testnodedown = workers.pytest_testnodedown

def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        os._exit(0)
    workers.pytest_sessionfinish(session)
"""

# The others that are installed take most of the time in which pytest starts.
ONE_PLUGIN = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_reportlog.plugin"}
WORKERS = ("-p", "xdist.plugin", "-n", "2", "--dist", "worksteal")


def retest(folder: Path, *tests: str, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(CHANCE + "".join(tests))
    return run(sys.executable, ROOT / "tools" / "retest.py", *arguments, cwd=folder, **ONE_PLUGIN)


def flaky(printed: str) -> list[str]:
    """What is listed as such: names, and first failures."""
    return [line.strip() for line in printed.partition("\nflaky:\n")[2].partition("\n\n")[0].splitlines()]


def last_line(printed: str) -> str:
    return re.sub(r"=+ (.*) in [0-9.]+s =+", r"\1", printed.splitlines()[-1])


def test_what_passes_alone_is_listed_with_its_first_failure_and_fails_nothing(tmp_path: Path) -> None:
    done = retest(tmp_path, PASSES, FLAKY, FLAKY_AROUND, DISTURBED, arguments=("-x",))
    names = ("test_flaky[a/b::[c]]", "test_flaky_in_setup", "test_flaky_in_teardown", "test_disturbed")
    assert flaky(done.stdout)[::2] == [f"test_it.py::{name}" for name in names], done.stdout
    failures = flaky(done.stdout)[1::2]
    assert all(failure.startswith(f"{tmp_path}/test_it.py:") for failure in failures)
    for failure, told in zip(failures, ("with call", "with setup", "with teardown", "'DISTURBED' not in"), strict=True):
        assert told in failure
    assert (done.returncode, last_line(done.stdout)) == (0, "6 passed, 1 skipped")


def test_what_fails_by_chance_in_a_worker_passes_alone_too(tmp_path: Path) -> None:
    done = retest(tmp_path, PASSES, FLAKY, FLAKY_AROUND, arguments=("-x", *WORKERS))
    found = flaky(done.stdout)
    told = {
        "test_it.py::test_flaky[a/b::[c]]": "bad luck with call",
        "test_it.py::test_flaky_in_setup": "bad luck with setup",
        "test_it.py::test_flaky_in_teardown": "bad luck with teardown",
    }
    assert {name: re.sub(r".*: ", "", failure) for name, failure in zip(found[::2], found[1::2], strict=True)} == told
    assert (done.returncode, last_line(done.stdout)) == (0, "4 passed, 1 skipped")


def test_what_fails_twice_fails_the_run(tmp_path: Path) -> None:
    done = retest(tmp_path, PASSES, FLAKY, FAILS, FAILS_IN_SETUP)
    assert flaky(done.stdout)[::2] == ["test_it.py::test_flaky[a/b::[c]]"]
    assert (done.returncode, last_line(done.stdout)) == (1, "2 failed, 2 passed, 1 skipped")


@pytest.mark.parametrize("test", [SKIPPED_WHEN_ALONE, CRASHES_WHEN_ALONE])
def test_what_does_not_pass_alone_fails_the_run(tmp_path: Path, test: str) -> None:
    done = retest(tmp_path, PASSES, test)
    assert flaky(done.stdout) == []
    assert (done.returncode, last_line(done.stdout)) == (1, "1 failed, 1 passed, 1 skipped")


def test_where_nothing_fails_nothing_is_added(tmp_path: Path) -> None:
    done = retest(tmp_path, PASSES)
    assert (done.returncode, last_line(done.stdout)) == (0, "1 passed, 1 skipped")
    assert "alone" not in done.stdout


@pytest.mark.parametrize(
    ("test", "status"),
    [
        ("import nowhere", 2),  # cannot be collected
        ("", 5),  # no test
        ("def test_crash(): os._exit(0)", 3),
        ("def test_crash(): os._exit(1)", 1),
        ("def test_crash(): os.kill(os.getpid(), 9)", -9 & 0xFF),
        ("def test_end(): raise KeyboardInterrupt", 2),
    ],
)
def test_what_is_no_failure_of_a_test_fails_the_run_at_once(tmp_path: Path, test: str, status: int) -> None:
    done = retest(tmp_path, FLAKY if test else "", test)
    assert done.returncode & 0xFF == status
    assert "alone" not in done.stdout


@pytest.mark.parametrize("crash", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_worker_that_crashes_fails_the_run(tmp_path: Path, crash: str) -> None:
    done = retest(tmp_path, PASSES, FLAKY, f"def test_crash(): {crash}", arguments=WORKERS)
    assert (done.returncode, last_line(done.stdout)) == (1, "2 failed, 1 passed, 1 skipped")
    assert re.search(r"worker 'gw\d' crashed while running 'test_it.py::test_crash'", done.stdout)
    assert "alone" not in done.stdout


def test_a_worker_that_crashes_when_its_tests_are_through_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(f"import sys; sys.path.append({str(ROOT)!r})\n" + CRASHES_AT_THE_END)
    done = retest(tmp_path, PASSES, arguments=WORKERS)
    assert (done.returncode, last_line(done.stdout)) == (3, "1 passed, 1 skipped")


def test_where_many_fail_none_is_run_again(tmp_path: Path) -> None:
    done = retest(tmp_path, "@pytest.mark.parametrize('n', range(21))\ndef test_fails(n): fail_the_first_time(str(n))")
    assert (done.returncode, last_line(done.stdout)) == (1, "21 failed")
    assert "alone" not in done.stdout
