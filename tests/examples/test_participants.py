"""docs/participants.md is followed to the letter: a service is made, gets a method of its own, and takes part."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.server.chassis.security.grants import parse_grants
from handfast.server.cli.dev.folder import CREDENTIALS
from handfast.server.cli.ports import free_first_port
from tests.cli.processes import CLEAN
from tests.eventually import PATIENCE, eventually
from tests.project.commands import BIN, ROOT, run
from tests.project.readme import blocks, dangling_links, shows_the_same

GUIDE = ROOT / "docs" / "participants.md"
STEP = re.compile(
    r"^(?:In (?:the new file )?`(?P<file>[^`]+)`(?:, (?:after the line `(?P<line>[^`]+)`|at the end))?:\n\n)?"
    r"^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
ENVIRONMENT = {**CLEAN, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
ADDRESS = "127.0.0.1:50061"

pytestmark = pytest.mark.timeout(300)


def steps(heading: str) -> Iterator[re.Match[str]]:
    """The blocks below a heading, each with what the guide says that is to be done with it."""
    text = GUIDE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return (step for step in STEP.finditer(text) if step["language"] != "text")


def follow(step: re.Match[str], folder: Path) -> None:
    """Makes the change of a file that a step shows."""
    file, line, code = folder / step["file"], step["line"], step["code"]
    before = file.read_text().splitlines(keepends=True) if file.exists() else []
    place = len(before)
    if line is not None:
        (place,) = (number for number, each in enumerate(before, 1) if each.strip() == line)
    file.write_text("".join([*before[:place], code, *before[place:]]))


def succeed(commands: str, folder: Path) -> str:
    done = run("sh", "-e", "-c", commands, cwd=folder, **ENVIRONMENT)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service, made and changed as the guide says. What the guide installs is installed for the tests already."""
    folder = tmp_path_factory.mktemp("guide")
    install, make = (step["code"] for step in steps("Make it"))
    assert install.endswith("pip install '/path/to/handfast[server]'\n")
    assert "make install\n" in make
    printed = succeed(make.replace("make install", "make generate format"), folder)
    assert re.search(r"\b10 passed\b", printed), printed
    library = folder / "library"
    *changes, last = steps("Add a method")
    for step in changes:
        follow(step, library)
    printed = succeed(last["code"], library)
    assert re.search(r"\b12 passed\b", printed), printed
    assert "Success: no issues found" in printed
    return library


def environment_beside(first_port: int) -> dict[str, str]:
    """Where the suite and the service are, as other ports than those of the guide have to be used."""
    environment = {"HANDFAST_LIBRARY_LISTEN": f"127.0.0.1:{first_port + 3}", "HANDFAST_FIRST_PORT": str(first_port)}
    for number, server in enumerate(("users", "preferences", "accounts")):
        environment[f"HANDFAST_{server.upper()}_ADDRESS"] = f"127.0.0.1:{first_port + number}"
    return environment


def consume(step: re.Match[str], library: Path, address: str, environment: dict[str, str]) -> None:
    """Runs the consumer, on this address of the service, which prints what the guide shows."""
    (library / "lend.py").write_text((library / "lend.py").read_text().replace(ADDRESS, address))
    (shown,) = (block.output for block in blocks("sh", GUIDE) if block.code == step["code"])
    assert shown is not None
    done = run("sh", "-e", "-c", step["code"], cwd=library, **ENVIRONMENT, **environment)
    assert shows_the_same(shown, done.stdout), done.stdout


def test_the_service_that_the_guide_makes_takes_part_beside_a_suite(library: Path, tmp_path: Path) -> None:
    run_it, up, consumer, last = steps("Run it beside a suite")
    first_port = free_first_port()
    address, environment = f"127.0.0.1:{first_port + 3}", environment_beside(first_port)
    follow(consumer, library)
    with (
        started(run_it["code"], library, tmp_path / "service", environment, until='"event": "serving"'),
        started(up["code"].replace(ADDRESS, address), library, tmp_path / "suite", environment, until="ready\n"),
    ):
        consume(last, library, address, environment)


def test_the_service_takes_part_beside_a_suite_that_asks_who_calls(library: Path, tmp_path: Path) -> None:
    consumer = [*steps("Run it beside a suite")][2]
    up, run_it, last, others, grants = steps("Run it where callers are known")
    first_port = free_first_port()
    address, environment = f"127.0.0.1:{first_port + 3}", environment_beside(first_port)
    (library / "lend.py").write_text(consumer["code"])
    with (
        started(up["code"].replace(ADDRESS, address), library, tmp_path / "suite", environment, until="ready\n"),
        started(run_it["code"], library, tmp_path / "service", environment, until='"event": "serving"'),
    ):
        consume(last, library, address, environment)
        done = run("sh", "-e", "-c", others["code"], cwd=library, **ENVIRONMENT, **environment)
        assert done.stdout.startswith("paul\ncommitted\n"), done.stdout
        assert done.returncode == 0, done.stdout
    made = parse_grants((library / "handfast-data" / CREDENTIALS / "dev-grants.toml").read_bytes())
    ((name, scopes),) = parse_grants(grants["code"].encode()).items()
    assert made[name.replace("example.org", "handfast.test")] == scopes


def test_a_rule_of_its_own_refuses_by_who_calls(library: Path) -> None:
    *changes, last = steps("Add a rule of your own")
    for step in changes:
        follow(step, library)
    printed = succeed(last["code"], library)
    assert re.search(r"\b13 passed\b", printed), printed
    assert "Success: no issues found" in printed


@contextlib.contextmanager
def started(commands: str, folder: Path, log: Path, environment: dict[str, str], until: str) -> Iterator[None]:
    """Runs commands that go on, until the block ends; begins the block when they have written `until`."""
    with log.open("w") as output:
        process = subprocess.Popen(
            ["sh", "-c", f"trap : TERM\n{commands}"],  # so that it waits for what it runs
            cwd=folder,
            env={**ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        assert eventually(lambda: until in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)


def test_links_lead_somewhere() -> None:
    assert dangling_links(GUIDE) == []
