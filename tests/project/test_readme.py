"""README.md shows what is there, and what it says happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handfast.server.cli.ports import free_first_port
from handfast.server.suite import FIRST_PORT
from tests.cli.processes import start_process, stop_process
from tests.project.commands import ROOT, run
from tests.project.readme import README, blocks, shows_the_same


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())
    inside = [link for link in links if "://" not in link]
    assert len(inside) > 10
    assert [link for link in inside if not (ROOT / link).exists()] == []


def test_make_knows_the_targets() -> None:
    commands = [command.split() for command in _commands()]
    targets = {command[1] for command in commands if command[0] == "make" and len(command) > 1}
    assert targets >= {"up", "test", "demo", "grpcurl"}
    for target in targets:
        done = run("make", "--question", target)
        assert "No rule to make target" not in done.stdout, target


def test_up_prints_what_is_shown(tmp_path: Path) -> None:
    (shown,) = [block.output for block in blocks("sh") if block.code == "make up\n"]
    first_port = free_first_port()
    arguments = ("up", "--data-dir", str(tmp_path / "var"), "--first-port", str(first_port))
    process = start_process(tmp_path / "stderr", arguments, {}, first_port)
    printed = process.read_until("ready")
    stop_process(process)
    for offset in (0, 1, 2, 100, 101, 102):
        printed = printed.replace(f"127.0.0.1:{first_port + offset}", f"127.0.0.1:{FIRST_PORT + offset}")
    assert shown is not None
    assert shows_the_same(shown, printed.replace(str(tmp_path), "/home/you/handfast")), printed


@pytest.mark.parametrize(
    ("shown", "same"),
    [
        ("a\n  b\n", True),
        ("a\nb\nc\n", False),
        ("...\nb\n", True),
        ("...\na\nb\n...\n", True),
        ("...\nc\n", False),
        ("b\n", False),
    ],
)
def test_what_is_shown_is_compared_line_by_line(shown: str, same: bool) -> None:
    assert shows_the_same(shown, "a\n\tb\n") is same


def _commands() -> list[str]:
    """What is set as code: lines of blocks, and what stands between backticks."""
    in_blocks = [line for block in blocks("sh") for line in block.code.splitlines()]
    return in_blocks + re.findall(r"(?<!`)`([^`\n]*\w[^`\n]*)`(?!`)", README.read_text())
