"""What the command answers at once: help, and one line for each mistake."""

from __future__ import annotations

import importlib.metadata
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import pytest

from handfast.server.cli.ports import free_first_port
from handfast.server.cli.supervisor import HANDFAST
from tests.cli.processes import CLEAN, Process, Result
from tests.eventually import PATIENCE

Handfast = Callable[..., Result]


COMMANDS = [
    (),
    ("up",),
    ("help",),
    ("serve",),
    ("serve", "accounts"),
    ("health",),
    ("config",),
    ("demo",),
    ("dev-credentials",),
    ("dev-token",),
    ("new", "service"),
    ("transactions", "list"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_however_it_is_asked(handfast: Handfast, command: tuple[str, ...]) -> None:
    result = handfast(*command, "--help")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: {' '.join(('handfast', *command))} ")
    assert handfast(*command, "-h") == result
    assert handfast("help", *command) == result


@pytest.mark.parametrize("command", [(), ("serve",), ("new",), ("transactions",)])
def test_a_command_that_lacks_its_second_word_says_which_there_are(
    handfast: Handfast, command: tuple[str, ...]
) -> None:
    result = handfast(*command)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == handfast(*command, "--help").stdout


def test_the_version_is_that_of_the_package(handfast: Handfast) -> None:
    assert handfast("--version") == Result(0, f"handfast {importlib.metadata.version('handfast')}\n", "")


TRANSACTIONS = "HANDFAST_TRANSACTIONS_DATABASE_URL"


def test_the_help_of_a_server_names_each_flag_with_its_value_variable_and_default(handfast: Handfast) -> None:
    text = " ".join(handfast("serve", "accounts", "--help").stdout.split())
    for flag, variable, default in (
        ("--listen HOST:PORT", "HANDFAST_ACCOUNTS_LISTEN", "default: 127.0.0.1:50053"),
        ("--metrics-listen HOST:PORT", "HANDFAST_ACCOUNTS_METRICS_LISTEN", "default: as --listen, port + 100"),
        ("--database-url URL", f"{TRANSACTIONS}, {TRANSACTIONS}_FILE", "required"),
        ("--users-address ADDRESS", "HANDFAST_USERS_ADDRESS", "default: 127.0.0.1:50051"),
        ("--threads NUMBER", "HANDFAST_THREADS", "default: 16"),
        ("--grace SECONDS", "HANDFAST_GRACE", "default: 10"),
        ("--processor NUMBER|any", "HANDFAST_ACCOUNTS_PROCESSOR", "default: any"),
        ("--log-level debug|info|warning|error", "HANDFAST_LOG_LEVEL", "default: info"),
        ("--no-allow-plaintext-beyond-loopback", "HANDFAST_ALLOW_PLAINTEXT_BEYOND_LOOPBACK", "default: false"),
    ):
        assert re.search(rf"{re.escape(flag)} [^\[]+\[env var: {variable}; {re.escape(default)}\]", text), flag


@pytest.mark.parametrize(
    ("arguments", "usage", "error"),
    [
        (("up", "--frist-port", "1"), "handfast up", "No such option '--frist-port'. Did you mean '--first-port'?"),
        (("serve", "users", "--nonsense"), "handfast serve users", "No such option '--nonsense'."),
        (("serve", "credits"), "handfast serve", "No such command 'credits'."),
        (("serve", "accounts", "now"), "handfast serve accounts", "Got unexpected extra argument (now)"),
        (("upp",), "handfast", "No such command 'upp'. Did you mean 'up'?"),
        (("help", "transactoins"), "handfast", "No such command 'transactoins'. Did you mean 'transactions'?"),
        (("transactions", "show"), "handfast transactions show", "Missing argument 'TRANSACTION_ID'."),
    ],
)
def test_a_command_line_that_makes_no_sense_is_told_with_the_usage_of_its_command(
    handfast: Handfast, arguments: tuple[str, ...], usage: str, error: str
) -> None:
    result = handfast(*arguments)
    assert (result.status, result.stdout) == (2, "")
    first, *_, last = result.stderr.splitlines()
    assert first.startswith(f"Usage: {usage} ")
    assert f"\nTry '{usage} --help' for help.\n" in result.stderr
    assert last == f"Error: {error}"


def test_a_shell_is_told_how_to_complete(handfast: Handfast) -> None:
    asked = {"_HANDFAST_COMPLETE": "bash_complete", "COMP_WORDS": "handfast transactions re", "COMP_CWORD": "2"}
    assert handfast(**asked).stdout == "plain,resolve\n"


def test_a_reader_of_help_may_leave_early(unread: int) -> None:
    done = subprocess.run(
        [*HANDFAST, "serve", "users", "--help"], env=CLEAN, stdout=unread, stderr=PIPE, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_disk_that_is_full_is_told_in_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*HANDFAST, "--help"], env=CLEAN, stdout=full, stderr=PIPE, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (1, b"cannot write: No space left on device\n")


INTERRUPTED_IMPORT = """
import signal, sys
class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "handfast.server.process.settings":
            signal.raise_signal(int(sys.argv[1]))
sys.meta_path.insert(0, Interrupt())
from handfast.server.cli.main import main
sys.exit(main(["up"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_without_a_word_also_while_it_is_imported(number: signal.Signals) -> None:
    program = [sys.executable, "-c", INTERRUPTED_IMPORT, str(int(number))]
    done = subprocess.run(program, env=CLEAN, capture_output=True, text=True)
    # It is handled, or the first process of a container would pass over it.
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


def test_a_command_that_waits_for_a_database_ends_by_sigterm_without_a_word() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        command = [*HANDFAST, "migrate", "users", "--database-url", f"postgresql://users@127.0.0.1:{port}/users"]
        with subprocess.Popen(command, env=CLEAN, stdout=PIPE, stderr=subprocess.STDOUT) as process:
            caller, _ = silent.accept()
            with caller:
                process.terminate()
                printed, _ = process.communicate(timeout=PATIENCE)
    # It is handled, or the first process of a container would pass over it.
    assert (process.returncode, printed.strip()) == (128 + signal.SIGTERM, b"")


def loaded(imports: str, packages: set[str]) -> set[str]:
    """Those of the packages that a program has loaded once it has imported these modules."""
    program = f"import sys, {imports}\nprint(*({packages!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], env=CLEAN, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_and_supervisor_load_neither_grpc_nor_sqlalchemy() -> None:
    packages = {"alembic", "cryptography", "google", "grpc", "sqlalchemy", "structlog"}
    assert loaded("handfast.server.cli.commands, handfast.server.cli.up", packages) == set()


def test_a_server_loads_postgresql_and_cryptography_only_where_its_settings_ask_for_them() -> None:
    imports = "handfast.server.users.server, handfast.server.accounts.server"
    assert loaded(imports, {"cryptography", "jwt", "psycopg"}) == set()


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
            "plain text and without authentication; listen on loopback, or say --tls-certificate or "
            "--allow-plaintext-beyond-loopback, and --authentication enforce, --tls-client-ca or "
            "--allow-anonymous-beyond-loopback",
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
            "give a host and a port, such as localhost:50051, or several with commas, without spaces or prefixes",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(
    handfast: Handfast, arguments: tuple[str, ...], environment: dict[str, str], line: str
) -> None:
    assert handfast(*arguments, **environment) == Result(2, "", line + "\n")


def test_up_refuses_a_data_directory_whose_path_is_too_long(handfast: Handfast, tmp_path: Path) -> None:
    result = handfast("up", "--data-dir", str(tmp_path / "long" / "/".join(["folder"] * 80)))
    assert result.status == 2
    assert result.stderr.startswith("handfast: up: --data-dir (or HANDFAST_DATA_DIR) names a path of ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "long").exists()


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
    assert process.stderr == (
        f"handfast: up: cannot listen on 127.0.0.1:{address[1]} for {owner}: Address already in use; "
        "--first-port (or HANDFAST_FIRST_PORT) says where else\n"
    )
