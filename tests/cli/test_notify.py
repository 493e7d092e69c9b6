"""sd_notify(3), as systemd and the supervisor hear it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from handfast.server.process.supervision import notify


def test_the_state_arrives_at_the_socket_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_the_socket_may_be_an_abstract_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # Linux picks an abstract name
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + manager.getsockname().decode().removeprefix("\0"))
        notify("STOPPING=1")
        assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "/" + "long" * 100])
def test_that_nobody_listens_is_no_failure(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
