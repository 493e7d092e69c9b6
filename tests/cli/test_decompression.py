"""Requests that are small on the wire and huge when they are decompressed cost a server no memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import grpc
import pytest
from packaging.requirements import Requirement

from handfast.server.cli.ports import free_first_port
from handfast.server.process.settings import sqlite_url
from tests.cli.processes import Process
from tests.eventually import PATIENCE

GET_USER = "/handfast.users.v1.UserService/GetUser"
MIB = 1 << 20
HUGE = bytes(128 * MIB)
ROOM = 64 * MIB
"""What a server may grow by: grpcio decompresses up to its own limit on messages, 8 MiB, before it refuses."""


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_request_that_is_huge_when_decompressed_costs_no_memory(
    start: Callable[..., Process], tmp_path: Path, compression: grpc.Compression
) -> None:
    address = f"127.0.0.1:{free_first_port()}"
    database = ("--migrate", "--database-url", sqlite_url(tmp_path / "users.sqlite3"))
    server = start("serve", "users", *database, "--listen", address)
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(GET_USER)
        with pytest.raises(grpc.RpcError) as small:
            call(b"", wait_for_ready=True, timeout=PATIENCE)
        assert small.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        before = largest_memory(server)
        with pytest.raises(grpc.RpcError) as refused:
            call(HUGE, compression=compression, timeout=PATIENCE)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert largest_memory(server) < before + ROOM


def largest_memory(server: Process) -> int:
    """The most bytes that it has had in memory."""
    status = Path(f"/proc/{server.popen.pid}/status").read_text()
    kib = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert kib is not None
    return int(kib[1]) * 1024


def test_servers_are_not_installed_with_a_grpcio_that_decompresses_without_bound() -> None:
    """These were tried, and do."""
    required = [Requirement(text) for text in requires("handfast") or ()]
    (grpcio,) = (each for each in required if each.name == "grpcio" and "server" in str(each.marker))
    for version in ("1.72.2", "1.73.1", "1.74.0", "1.75.1", "1.76.0", "1.78.2", "1.80.1", "1.81.2", "1.82.1", "1.83.0"):
        assert not grpcio.specifier.contains(version), version
    assert grpcio.specifier.contains("1.82.2")
