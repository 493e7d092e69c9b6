"""`handfast serve`: one server, which says when it serves, why it cannot, and ends when told."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import socket
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from handfast.server.cli.ports import free_first_port
from handfast.server.process.settings import sqlite_url
from handfast.server.process.supervision import SUPERVISED
from tests.cli.processes import Process, Result
from tests.eventually import PATIENCE, eventually


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_tells_systemd_that_it_is_ready_and_ends_on_a_signal(
    start: Callable[..., Process], tmp_path: Path, number: signal.Signals
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        server = start("serve", "users", *_own_place(tmp_path), NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert manager.recv(100) == b"READY=1"
    assert server.end(number) == 0
    assert "Traceback" not in server.stderr


def test_a_server_may_open_as_many_files_as_it_is_allowed(start: Callable[..., Process], tmp_path: Path) -> None:
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, few), most))
    try:
        server = start("serve", "users", *_own_place(tmp_path), HANDFAST_MIGRATE="true")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))
    limits = Path(f"/proc/{server.popen.pid}/limits")

    def are_raised() -> bool:
        (line,) = (line for line in limits.read_text().splitlines() if line.startswith("Max open files"))
        return line.split()[3] == line.split()[4]

    assert eventually(are_raised), server.stderr


def test_a_database_that_cannot_be_opened_is_told_in_one_line(handfast: Callable[..., Result], tmp_path: Path) -> None:
    arguments = _own_place(tmp_path / "missing")
    result = handfast("serve", "users", *arguments)
    assert result.status == 2
    (told,) = result.told
    assert told.startswith("handfast: users: ")


def test_the_first_line_of_the_log_has_the_versions(start: Callable[..., Process], tmp_path: Path) -> None:
    server = start("serve", "users", *_own_place(tmp_path))
    assert eventually(lambda: '"serving"' in server.stderr)
    first = json.loads(server.stderr.splitlines()[0])
    assert list(first)[:4] == ["timestamp", "level", "event", "service"]
    assert (first["level"], first["event"], first["service"]) == ("info", "starting", "users")
    assert first["version"] == metadata.version("handfast")
    assert first["grpcio"] == metadata.version("grpcio")
    assert first["python"] == platform.python_version()


@pytest.mark.parametrize("offset", [0, 100])
def test_a_port_that_is_taken_is_told_in_one_line(handfast: Callable[..., Result], tmp_path: Path, offset: int) -> None:
    port = free_first_port()
    with socket.create_server(("127.0.0.1", port + offset)):  # which may be in TIME_WAIT
        result = handfast("serve", "users", *_own_place(tmp_path, port))
    assert result.status == 2
    (told,) = result.told
    assert told.startswith("handfast: users: ")
    assert str(port + offset) in told


def test_a_server_that_is_not_supervised_does_not_mind_its_stdin(start: Callable[..., Process], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        server = start("serve", "users", *_own_place(tmp_path), NOTIFY_SOCKET=str(tmp_path / "notify"))
        manager.recv(100)
    assert SUPERVISED not in os.environ
    assert server.popen.poll() is None


def _own_place(folder: Path, port: int = 0) -> tuple[str, ...]:
    listen = f"127.0.0.1:{port or free_first_port()}"
    return ("--migrate", "--listen", listen, "--database-url", sqlite_url(folder / "users.sqlite3"))
