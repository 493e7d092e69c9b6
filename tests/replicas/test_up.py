"""`handfast up --replicas`: several servers of each kind on one PostgreSQL."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from handfast.client import connect
from handfast.server.process.settings import sqlite_url
from handfast.users.v1.users_pb2 import GetUserRequest
from tests.cli.processes import Process, Result, run_process, suite_up
from tests.databases.postgresql import PostgreSQL
from tests.eventually import eventually
from tests.people import create_user
from tests.replicas.servers import NAMES

REPLICAS = 2


def test_callers_of_the_addresses_that_it_says_do_not_notice_that_a_replica_of_each_dies_and_is_restarted_alone(
    server: PostgreSQL, tmp_path: Path
) -> None:
    with suite_up(tmp_path, server.create_databases("up_"), "--replicas", str(REPLICAS)) as suite:
        at = [f"127.0.0.1:{suite.first_port + place}" for place in range(REPLICAS * len(NAMES))]
        lists = [",".join(at[place :: len(NAMES)]) for place in range(len(NAMES))]
        for name, addresses in zip(NAMES, lists, strict=True):
            assert f"  export HANDFAST_{name.upper()}_ADDRESS={addresses}\n" in suite.printed
        before, killed = _replicas(suite), set(suite.servers().values())
        assert len(killed) == len(NAMES)
        with connect(*lists) as client:
            user = create_user(client)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            for _ in range(20):
                assert client.users.GetUser(GetUserRequest(user_id=user.user_id)).user == user
                create_user(client)
        assert eventually(lambda: len(_replicas(suite) - killed) == len(before))
        assert _replicas(suite) > before - killed


def test_what_must_replicate_is_told_by_a_flag(tmp_path: Path) -> None:
    told = "--database-must-replicate (or HANDFAST_DATABASE_MUST_REPLICATE) must not be set with SQLite"
    command = ("up", "--database-must-replicate", "--data-dir", str(tmp_path / "data"))
    assert run_process(command, {}).stderr.startswith(f"handfast: up: {told}")
    assert not (tmp_path / "data").exists()


def test_each_server_has_one_replica_where_its_database_is_a_file(tmp_path: Path) -> None:
    told = "handfast: up: --replicas (or HANDFAST_REPLICAS) must be 1, not 2, where a database is a file of SQLite; "
    environment = {"HANDFAST_REPLICAS": "2", "HANDFAST_DATA_DIR": str(tmp_path / "data")}
    environment |= {f"HANDFAST_{name}_DATABASE_URL": "postgresql://db/handfast" for name in ("USERS", "PREFERENCES")}
    assert run_process(("up",), environment) == Result(
        2, "", f"{told}name one of PostgreSQL by HANDFAST_TRANSACTIONS_DATABASE_URL\n"
    )
    environment["HANDFAST_TRANSACTIONS_DATABASE_URL"] = sqlite_url(tmp_path / "transactions.sqlite3")
    assert run_process(("up",), environment).stderr.startswith(told)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (("--replicas", "34"), "--replicas (or HANDFAST_REPLICAS) must be from 1 to 33, not 34"),
        (
            ("--replicas", "2", "--first-port", "65431"),
            "--first-port (or HANDFAST_FIRST_PORT) must be from 1 to 65430 with --replicas 2, not 65431",
        ),
    ],
)
def test_there_are_as_many_replicas_as_there_are_ports_for(flags: tuple[str, ...], rule: str) -> None:
    assert run_process(("up", *flags), {}) == Result(2, "", f"handfast: up: {rule}\n")


def _replicas(suite: Process) -> set[int]:
    """Their process ids."""
    pid = suite.popen.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
