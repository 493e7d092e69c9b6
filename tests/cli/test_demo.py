"""`handfast demo`: shows an atomic commit, and one that is refused, on any suite."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import pytest

from handfast.server.cli.ports import free_first_port
from handfast.server.cli.supervisor import HANDFAST
from handfast.users.v1.users_pb2 import ListUsersRequest
from tests.cli.processes import CLEAN, Process, Result
from tests.eventually import PATIENCE, eventually
from tests.project.readme import blocks, shows_the_same


def _addresses(suite: Process) -> dict[str, str]:
    return {f"HANDFAST_{server.upper()}_ADDRESS": address for server, address in suite.addresses.items()}


@pytest.mark.parametrize("run", ["first", "second"])
def test_the_demo_runs_on_a_running_suite_as_often_as_one_likes(
    handfast: Callable[..., Result], suite: Process, run: str
) -> None:
    result = handfast("demo", **_addresses(suite))
    assert (result.status, result.stderr) == (0, ""), run
    assert "\033" not in result.stdout
    assert re.findall(r"^(\d)\. ", result.stdout, re.MULTILINE) == ["1", "2", "3", "4"]
    uuid = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    assert len(re.findall(rf"transaction +{uuid} committed$", result.stdout, re.MULTILINE)) == 3
    assert re.search(r"display name 'Ada Lovelace' -> 'Countess of Lovelace'$", result.stdout, re.MULTILINE)
    assert re.search(r"refused by +handfast.preferences, INVALID_ARGUMENT \w+$", result.stdout, re.MULTILINE)
    assert re.search(r"request id +\S+$", result.stdout, re.MULTILINE)
    assert re.search(r"users +display name is still 'Countess of Lovelace'$", result.stdout, re.MULTILINE)
    (shown,) = [block.output for block in blocks("sh") if block.code == "make demo\n"]
    assert shown is not None
    assert shows_the_same(shown, result.stdout)


def test_the_demo_leaves_no_account_behind(handfast: Callable[..., Result], suite: Process) -> None:
    handfast("demo", **_addresses(suite))
    with suite.connect() as services:
        assert not services.users.ListUsers(ListUsersRequest()).users


@pytest.mark.parametrize("no_color", ["", "1"])
def test_the_demo_stands_out_on_a_terminal_unless_told_not_to(suite: Process, no_color: str) -> None:
    master, terminal = pty.openpty()
    environment = CLEAN | _addresses(suite) | {"NO_COLOR": no_color}
    with subprocess.Popen([*HANDFAST, "demo"], env=environment, stdout=terminal) as process:
        os.close(terminal)
        printed = b""
        with contextlib.suppress(OSError):  # which is how the end of a terminal is told
            while read := os.read(master, 65536):
                printed += read
    os.close(master)
    assert process.returncode == 0
    assert (b"\033[1m" in printed) is not bool(no_color)


def test_who_reads_only_the_beginning_gets_no_traceback_and_leaves_no_account(suite: Process) -> None:
    environment = CLEAN | _addresses(suite)
    with subprocess.Popen([*HANDFAST, "demo"], env=environment, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        while "committed" not in process.stdout.readline():
            pass
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 1
    with suite.connect() as services:
        assert not services.users.ListUsers(ListUsersRequest()).users


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1)]
)
def test_a_demo_that_is_interrupted_takes_its_own_suite_away(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    environment = CLEAN | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([*HANDFAST, "demo"], env=environment, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("No suite answers at ")
        assert eventually(lambda: list(tmp_path.glob("*/users.sqlite3")))
        process.send_signal(number)
        assert process.wait(PATIENCE) == status
        assert process.stderr.read().strip() == ""  # after Ctrl-C, the end of the terminal's own line
    assert list(tmp_path.iterdir()) == []


def test_the_demo_finds_a_suite_by_its_first_port(handfast: Callable[..., Result], suite: Process) -> None:
    result = handfast("demo", "--first-port", str(suite.first_port))
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Suite: users 127.0.0.1:{suite.first_port}, ")


def test_the_demo_starts_a_suite_where_none_runs_and_reaches_it_by_no_proxy(handfast: Callable[..., Result]) -> None:
    nobody = f"http://127.0.0.1:{free_first_port()}"
    result = handfast("demo", http_proxy=nobody, https_proxy=nobody, no_proxy="", no_grpc_proxy="")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.endswith("Done: what spans services commits everywhere or nowhere.\n")


def test_the_demo_says_which_server_does_not_answer(handfast: Callable[..., Result], suite: Process) -> None:
    nobody = f"127.0.0.1:{free_first_port()}"
    result = handfast("demo", "--preferences-address", nobody, **_addresses(suite))
    assert result == Result(2, "", f"handfast: demo: no answer from preferences at {nobody}\n")
