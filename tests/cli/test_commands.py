"""What the command answers at once: help, and one line for each mistake."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from handfast.server.cli.ports import free_first_port
from tests.cli.processes import CLEAN, Process, Result
from tests.eventually import PATIENCE

Handfast = Callable[..., Result]


@pytest.mark.parametrize("command", [(), ("up",), ("serve",), ("serve", "accounts"), ("demo",)])
def test_every_command_explains_itself(handfast: Handfast, command: tuple[str, ...]) -> None:
    result = handfast(*command, "--help")
    assert result.status == 0
    assert result.stdout.startswith(f"usage: {' '.join(('handfast', *command))}")


def test_the_help_of_a_server_names_each_flag_with_its_variable(handfast: Handfast) -> None:
    text = " ".join(handfast("serve", "accounts", "--help").stdout.split())
    for flag, variable in {
        "--listen": "HANDFAST_ACCOUNTS_LISTEN",
        "--metrics-listen": "HANDFAST_ACCOUNTS_METRICS_LISTEN",
        "--database-url": "HANDFAST_TRANSACTIONS_DATABASE_URL",
        "--users-address": "HANDFAST_USERS_ADDRESS",
        "--threads": "HANDFAST_THREADS",
        "--grace": "HANDFAST_GRACE",
        "--log-level": "HANDFAST_LOG_LEVEL",
    }.items():
        assert f"{flag} " in text
        assert f"{variable})" in text


def test_help_and_supervisor_load_neither_grpc_nor_sqlalchemy() -> None:
    program = (
        "import sys, handfast.server.cli.main, handfast.server.cli.up\n"
        "print(*sorted({'alembic', 'google', 'grpc', 'sqlalchemy', 'structlog'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=CLEAN, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "line"),
    [
        (
            ("serve", "users"),
            {},
            "handfast: users: --database-url (or HANDFAST_USERS_DATABASE_URL) is required: "
            "sqlite:////absolute/file or postgresql://user:password@host/name",
        ),
        (
            ("serve", "users", "--database-url", "sqlite:////tmp/x", "--listen", "0.0.0.0:50051"),
            {},
            "handfast: users: --listen (or HANDFAST_USERS_LISTEN) is 0.0.0.0:50051, which other machines may reach in "
            "plain text; listen on loopback, or say --allow-plaintext-beyond-loopback",
        ),
        (
            ("up", "--first-port", "65500"),
            {},
            "handfast: up: --first-port (or HANDFAST_FIRST_PORT) must be from 1 to 65433, not 65500",
        ),
        (
            ("up",),
            {"HANDFAST_THREADS": "0"},
            "handfast: up: --threads (or HANDFAST_THREADS) must be from 1 to 1000, not 0",
        ),
        (
            ("up",),
            {"HANDFAST_USERS_DATABASE_URL": "mysql://h/d"},
            "handfast: up: --database-url (or HANDFAST_USERS_DATABASE_URL) must be sqlite:///FILE or postgresql://…",
        ),
        (
            ("demo", "--users-address", "nowhere"),
            {},
            "handfast: demo: --users-address (or HANDFAST_USERS_ADDRESS): 'nowhere' is no address; "
            "give a host and a port, such as localhost:50051",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(
    handfast: Handfast, arguments: tuple[str, ...], environment: dict[str, str], line: str
) -> None:
    assert handfast(*arguments, **environment) == Result(2, "", line + "\n")


def test_an_unknown_server_is_refused(handfast: Handfast) -> None:
    result = handfast("serve", "credits")
    assert result.status == 2
    assert "invalid choice: 'credits'" in result.stderr


def test_up_refuses_a_data_directory_that_cannot_be_written(handfast: Handfast, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = handfast("up", "--data-dir", str(tmp_path / "file" / "data"))
    line = f"handfast: up: cannot write to the data directory {tmp_path}/file/data: Not a directory\n"
    assert result == Result(2, "", line)


@pytest.mark.parametrize(
    ("offset", "owner"), [(0, "users"), (2, "accounts"), (100, "metrics of users"), (101, "metrics of preferences")]
)
def test_up_names_a_port_that_is_taken_and_starts_nothing(up: Callable[..., Process], offset: int, owner: str) -> None:
    first_port = free_first_port()
    address = ("127.0.0.1", first_port + offset)
    with socket.create_server(address):  # which may be in TIME_WAIT
        process = up(first_port=first_port)
        assert process.popen.wait(PATIENCE) == 2
    line = f"handfast: up: cannot listen on 127.0.0.1:{address[1]} for {owner}: Address already in use\n"
    assert process.stderr == line
