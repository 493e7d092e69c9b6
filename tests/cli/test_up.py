"""`handfast up`: a suite that is ready when it says so, keeps running, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import stat
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handfast.client import InvalidArgument, ServiceError
from handfast.server.chassis.ids import new_id
from handfast.server.cli.ports import free_first_port
from handfast.server.process.processors import usable_processors
from handfast.server.process.settings import sqlite_url
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.users.v1.users_pb2 import ListUsersRequest
from tests.cli.processes import Process, Result, is_running, suite_up
from tests.eventually import PATIENCE, eventually

Up = Callable[..., Process]
DATABASES = ("users", "preferences", "transactions")
PROCESSORS = {
    "HANDFAST_PREFERENCES_PROCESSOR": "any",
    "HANDFAST_ACCOUNTS_PROCESSOR": str(next(iter(usable_processors()), "any")),
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A suite that tests share, which leave it as it is."""
    with suite_up(tmp_path_factory.mktemp("suite"), PROCESSORS) as suite:
        yield suite


@pytest.fixture(scope="module")
def data_of_a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a suite has left behind."""
    folder = tmp_path_factory.mktemp("run")
    with suite_up(folder, {}):
        pass
    return folder / "data"


def test_a_fresh_suite_says_where_it_is_and_serves_once_it_is_ready(suite: Process) -> None:
    for address in suite.addresses.values():
        assert address in suite.printed
    assert f"{suite.addresses['accounts']} handfast.accounts.v1.AccountService/CreateAccount" in suite.printed
    assert _serves_users(suite)
    for database in DATABASES:
        assert (suite.errors.parent / "data" / f"{database}.sqlite3").exists()
    data = suite.errors.parent / "data"
    assert {stat.S_IMODE(each.stat().st_mode) for each in data.iterdir()} == {0o600}
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    with urllib.request.urlopen(f"http://127.0.0.1:{suite.first_port + 100}/metrics") as metrics:
        assert b"grpc_server_started_total" in metrics.read()


def test_a_server_that_dies_is_restarted_ever_later(up: Up) -> None:
    suite = _ready(up())
    seen = [suite.servers()["users"]]
    for _ in range(2):
        os.kill(seen[-1], signal.SIGKILL)
        assert eventually(lambda: suite.servers().get("users", seen[-1]) not in seen)
        seen.append(suite.servers()["users"])
    assert eventually(lambda: _serves_users(suite))
    asked = suite.servers()["preferences"]
    os.kill(asked, signal.SIGTERM)
    assert eventually(lambda: suite.servers().get("preferences", asked) != asked)
    deaths = [record for record in _logged(suite) if record["event"] == "server ended, restarting"]
    assert [(death["service"], death["pid"], death["exit_code"], death["level"]) for death in deaths] == [
        *(("users", pid, -signal.SIGKILL, "error") for pid in seen[:2]),
        ("preferences", asked, 0, "info"),
    ]
    assert [death["restart_delay_s"] for death in deaths] == [0.1, 0.2, 0.1]
    assert all(death["timestamp"] for death in deaths)


@pytest.mark.skipif(len(usable_processors()) < 2, reason="there is nothing to choose from")
def test_a_servers_python_stays_on_one_processor_and_leaves_the_others_to_grpc(suite: Process) -> None:
    assert _serves_users(suite)
    usable = usable_processors()
    # What the environment names goes first: users gets another than accounts.
    for server, kept_to in (("users", usable[1]), ("accounts", usable[0])):
        python, grpc = _processors_of_threads(suite.servers()[server])
        assert {kept_to} in python
        assert python.count(set(usable)) == 1  # the one that waits for the supervisor's end was there before
        assert grpc.count(set(usable)) == len(grpc) > 0
    python, _ = _processors_of_threads(suite.servers()["preferences"])
    assert python.count(set(usable)) == len(python)


def test_each_signal_stops_everything_in_good_order_and_the_suite_starts_again_on_its_data_and_ports(up: Up) -> None:
    first_port = free_first_port()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        suite = _ready(up(first_port=first_port))
        assert _serves_users(suite)  # and so leaves connections behind
        servers = suite.servers()
        assert len(servers) == 3
        assert suite.end(number) == 0
        assert not any(is_running(pid) for pid in servers.values())
        assert "Traceback" not in suite.stderr
    assert _serves_users(_ready(up(first_port=first_port)))


def test_a_suite_that_nohup_started_goes_on_when_its_terminal_closes(up: Up) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which children inherit
    try:
        suite = _ready(up())
    finally:
        signal.signal(signal.SIGHUP, before)
    suite.popen.send_signal(signal.SIGHUP)
    for pid in suite.servers().values():
        os.kill(pid, signal.SIGHUP)
    assert _serves_users(suite)
    assert suite.end(signal.SIGTERM) == 0
    assert "server ended" not in suite.stderr


def test_a_signal_while_the_suite_starts_stops_it_as_well(up: Up) -> None:
    suite = up()
    assert eventually(lambda: len(suite.servers()) == 3)
    servers = suite.servers()
    assert suite.end(signal.SIGINT) == 0
    assert not any(is_running(pid) for pid in servers.values())


def test_a_terminal_interrupt_reaches_the_supervisor_alone(suite: Process) -> None:
    assert {os.getpgid(pid) for pid in suite.servers().values()}.isdisjoint({os.getpgid(suite.popen.pid)})


def test_no_server_survives_a_supervisor_that_is_killed_and_its_folder_is_free(up: Up) -> None:
    suite = _ready(up())
    servers = suite.servers()
    assert suite.end(signal.SIGKILL) == -signal.SIGKILL
    assert eventually(lambda: not any(is_running(pid) for pid in servers.values()))
    _ready(up())


def test_a_suite_has_no_socket_in_a_folder_that_a_kill_could_leave_behind(suite: Process) -> None:
    assert [path for pid in (suite.popen.pid, *suite.servers().values()) for path in _sockets_with_a_path(pid)] == []


def test_any_path_can_be_the_folder_of_the_data(start: Callable[..., Process], tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"what? now#then 100% 50%25 a+b:c@d;\\'\"&=\n b\xc3\xbccher \xff")
    first_port = free_first_port()
    arguments = ("up", "--data-dir", str(folder), "--first-port", str(first_port))
    suite = _ready(start(*arguments, first_port=first_port))
    assert _serves_users(suite)
    assert {file.name for file in folder.glob("*.sqlite3")} == {f"{name}.sqlite3" for name in DATABASES}
    assert {file.name for file in tmp_path.iterdir()} == {folder.name, "stderr"}


def test_a_server_whose_file_was_removed_is_not_restarted_on_an_empty_one(up: Up, tmp_path: Path) -> None:
    suite = _ready(up())
    file, elsewhere = tmp_path / "data" / "users.sqlite3", tmp_path / "elsewhere"
    file.rename(elsewhere)
    os.kill(suite.servers()["users"], signal.SIGKILL)
    assert eventually(lambda: f"there is no {sqlite_url(file)}, and it must exist: was it removed?" in suite.stderr)
    assert not file.exists()
    elsewhere.rename(file)
    assert eventually(lambda: _serves_users(suite))


def test_a_suite_does_not_start_where_one_of_its_files_is_missing(up: Up, data_of_a_run: Path, tmp_path: Path) -> None:
    file = shutil.copytree(data_of_a_run, tmp_path / "data") / "users.sqlite3"
    file.unlink()
    suite = up()
    assert suite.popen.wait(PATIENCE) == 2
    assert suite.stderr == (
        f"handfast: up: there is no users.sqlite3 in {file.parent} any more; "
        "restore it, with no -wal and -shm beside it but its own, "
        "or remove up.databases there to begin with an empty one\n"
    )
    assert not file.exists()
    (file.parent / "up.databases").unlink()
    assert _serves_users(_ready(up()))


def test_a_file_stays_missed_though_a_run_meanwhile_had_another_database(
    up: Up, data_of_a_run: Path, tmp_path: Path
) -> None:
    file = shutil.copytree(data_of_a_run, tmp_path / "data") / "users.sqlite3"
    elsewhere = {"HANDFAST_USERS_DATABASE_URL": sqlite_url(tmp_path / "elsewhere")}
    assert _ready(up(**elsewhere)).end(signal.SIGTERM) == 0
    file.unlink()
    suite = up()
    assert suite.popen.wait(PATIENCE) == 2
    assert suite.stderr.startswith(f"handfast: up: there is no users.sqlite3 in {file.parent} any more; ")
    assert not file.exists()


def test_a_second_suite_on_the_same_folder_is_refused_in_one_line(
    suite: Process, handfast: Callable[..., Result]
) -> None:
    folder = suite.errors.parent / "data"
    result = handfast("up", "--data-dir", str(folder), "--first-port", str(free_first_port()))
    assert result == Result(
        2,
        "",
        f"handfast: up: the data directory {folder} is in use by another suite, process {suite.popen.pid}; "
        "stop that one, or give this one a --data-dir of its own\n",
    )


def test_participants_are_handed_on_to_the_coordinator(up: Up) -> None:
    branches = [pb.TransactionBranch(participant="weather", operation_count=1)]
    commit = pb.CommitTransactionRequest(transaction_id=new_id(), branches=branches)
    suite = _ready(up("--participant", "credits=127.0.0.1:9"))
    with suite.connect() as client, pytest.raises(InvalidArgument) as told:
        client.transactions.CommitTransaction(commit)
    assert told.value.violations[0].description.endswith(": credits, preferences, users")


def test_databases_of_the_environment_are_named_and_shown(up: Up, tmp_path: Path) -> None:
    elsewhere = sqlite_url(tmp_path / "elsewhere.sqlite3")
    printed = up(HANDFAST_PREFERENCES_DATABASE_URL=elsewhere).read_until("ready")
    assert printed.startswith("Databases are taken from HANDFAST_PREFERENCES_DATABASE_URL.\n")
    shown = dict(line.split() for line in printed.partition("Its data:\n")[2].splitlines() if "sqlite" in line)
    assert shown == {
        "users": sqlite_url(tmp_path / "data" / "users.sqlite3"),
        "preferences": elsewhere,
        "accounts": sqlite_url(tmp_path / "data" / "transactions.sqlite3"),
    }


def test_a_suite_whose_databases_are_all_elsewhere_makes_no_folder(up: Up, tmp_path: Path) -> None:
    variables = [f"HANDFAST_{name}_DATABASE_URL" for name in ("USERS", "PREFERENCES", "TRANSACTIONS")]
    suite = up(**{name: sqlite_url(tmp_path / f"{name}.sqlite3") for name in variables})
    assert f"Databases are taken from {', '.join(variables)}.\n" in suite.read_until("ready")
    assert not (tmp_path / "data").exists()


def test_a_suite_and_each_server_that_is_restarted_have_their_settings_by_the_file(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    first_port = free_first_port()
    file = tmp_path / "handfast.toml"
    text = f"""
        log_level = "error"
        users_address = "127.0.0.1:2"
        [participants]
        credits = "127.0.0.1:9"
        [users]
        log_level = "info"
        listen = "127.0.0.1:1"
        migrate = false
        accounts_address = "127.0.0.1:{first_port + 2}"
        database_url = "sqlite:///elsewhere.sqlite3"
        [up]
        first_port = {first_port}
        data_dir = "data"
        """
    file.write_text(text)
    suite = start("up", "--config", os.path.relpath(file), "--queue", "47", first_port=first_port)
    printed = suite.read_until("ready")
    assert printed.startswith(f"Databases are taken from database_url in [users] of {os.path.relpath(file)}.\n")
    name = os.path.relpath(file)
    passed_over = f"listen in [users] of {name}, migrate in [users] of {name}, users_address in {name}"
    assert f"Passed over, as this command says it itself: {passed_over}.\n" in printed
    assert f"users        {sqlite_url(tmp_path / 'elsewhere.sqlite3')}\n" in printed
    assert {each.name for each in (tmp_path / "data").glob("*.sqlite3")} == {
        "preferences.sqlite3",
        "transactions.sqlite3",
    }
    assert _serves_users(suite)
    assert {record["service"] for record in _logged(suite)} == {"users"}
    file.write_text(text.replace('log_level = "error"', 'log_level = "info"'))
    os.kill(suite.servers()["preferences"], signal.SIGKILL)
    assert eventually(
        lambda: (
            {"preferences"} == {each["service"] for each in _logged(suite) if each["event"] == "starting"} - {"users"}
        )
    )


def test_a_server_that_cannot_start_ends_the_suite(up: Up, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "preferences.sqlite3"
    suite = up(HANDFAST_PREFERENCES_DATABASE_URL=sqlite_url(missing))
    assert "ready" not in suite.read_until("ready")
    assert suite.popen.wait() == 1
    told, *logged = itertools.dropwhile(lambda line: line.startswith("{"), suite.stderr.splitlines())
    assert told.startswith("handfast: preferences: ")
    assert all(line.startswith("{") for line in logged)


def _processors_of_threads(pid: int) -> tuple[list[set[int]], list[set[int]]]:
    """What each thread of a server may run on: those that run Python, and those of grpcio."""
    python: list[set[int]] = []
    grpc: list[set[int]] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends meanwhile
            named_by_grpc = (thread / "comm").read_text().startswith(("grpc", "event_engine", "lifeguard"))
            (grpc if named_by_grpc else python).append(os.sched_getaffinity(int(thread.name)))
    return python, grpc


def _sockets_with_a_path(pid: int) -> list[str]:
    """Of the Unix sockets that a process has open, the paths of those that lie in a folder."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # one that is closed meanwhile
            inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    rows = [row.split() for row in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    return [row[7] for row in rows if row[6] in inodes and len(row) > 7]


def _ready(suite: Process) -> Process:
    assert suite.read_until("ready").endswith("ready\n"), suite.stderr
    return suite


def _serves_users(process: Process) -> bool:
    with process.connect() as suite:
        try:
            suite.users.ListUsers(ListUsersRequest())
        except ServiceError:
            return False
    return True


def _logged(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.stderr.splitlines() if line.startswith("{")]
