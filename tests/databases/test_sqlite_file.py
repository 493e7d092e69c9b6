"""A file of SQLite that is taken from a running server, overwritten, or on a full disk: nothing is acknowledged that is
not kept, and health says so.
"""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from handfast.server.chassis.data import migrations
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.server import Server
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.users.server import build
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.eventually import eventually

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


@dataclass
class Users:
    """A users server on a file of its own, and the database that it has open."""

    file: Path
    database: Database
    stub: UserServiceStub
    health: Any

    def create(self, user_id: str, **fields: Any) -> grpc.StatusCode:
        user = User(user_id=user_id, email=f"{user_id}@example.com", **fields)
        request = CreateUserRequest(user=user, request_id=str(uuid.uuid4()))
        return code_of(lambda: self.stub.CreateUser(request))

    def get(self, user_id: str) -> grpc.StatusCode:
        return code_of(lambda: self.stub.GetUser(GetUserRequest(user_id=user_id)))

    def serving(self) -> bool:
        return bool(self.health.Check(HealthCheckRequest()).status == HealthCheckResponse.SERVING)


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return OK


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Users]:
    opened: list[Database] = []

    class Opened(Database):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            opened.append(self)

    monkeypatch.setattr(migrations, "Database", Opened)
    file = tmp_path / "data" / "users.sqlite3"
    file.parent.mkdir()
    server: Server = build(
        SuiteSettings(
            name="users", listen="127.0.0.1:0", database_url=sqlite_url(file), migrate=True, grace=0.1, threads=2
        )
    )
    server.start()
    # Without the client, which tries again what is UNAVAILABLE.
    with grpc.insecure_channel(server.address) as to_users:
        yield Users(file, opened[0], UserServiceStub(to_users), health_pb2_grpc.HealthStub(to_users))
    server.stop()


COMMIT_AND_DIE = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("CREATE TABLE notes (number INTEGER)")
os._exit(0)
"""


def test_what_a_process_that_was_killed_has_committed_is_on_the_disk_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "data"
    subprocess.run([sys.executable, "-c", COMMIT_AND_DIE, file], check=True)
    synced: list[int] = []

    def fail(_file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with closing(Database(sqlite_url(file))) as database:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(sa.exc.OperationalError, match="cannot be written to its disk"), database.read():
            pass
        monkeypatch.setattr(os, "fsync", lambda opened: synced.append(os.fstat(opened).st_ino))
        with database.read() as connection:
            assert synced == [file.with_name("data-wal").stat().st_ino]
            assert connection.exec_driver_sql("SELECT count(*) FROM notes").scalar_one() == 0


def remove(file: Path) -> None:
    file.unlink()


def replace(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"")
    other.rename(file)


def remove_log(file: Path) -> None:
    file.with_name(f"{file.name}-wal").unlink()


def remove_folder(file: Path) -> None:
    file.parent.rename(file.parent.with_name("elsewhere"))


@pytest.mark.parametrize("harm", [remove, replace, remove_log, remove_folder])
def test_nothing_is_acknowledged_by_a_server_whose_file_is_taken(users: Users, harm: Callable[[Path], None]) -> None:
    assert users.create("ada") is OK
    harm(users.file)
    assert users.create("bob") is UNAVAILABLE
    assert eventually(lambda: not users.serving())


def test_a_server_whose_shared_memory_is_taken_is_not_ready(users: Users) -> None:
    users.file.with_name(f"{users.file.name}-shm").unlink()
    assert eventually(lambda: not users.serving())


def test_a_file_that_is_taken_while_a_change_is_on_its_way_is_noticed_before_the_reply(users: Users) -> None:
    def change(connection: sa.Connection) -> None:
        connection.exec_driver_sql("UPDATE horizon SET transaction_id = 'lost'")
        remove(users.file)

    with pytest.raises(sa.exc.OperationalError, match="was removed or replaced while it was open"):
        users.database.write(change)


def test_nothing_is_read_from_a_file_that_is_taken_nor_is_it_made_anew(users: Users) -> None:
    assert users.create("ada") is OK
    remove(users.file)
    assert users.get("ada") is UNAVAILABLE
    assert eventually(lambda: not users.serving())
    assert not users.file.exists()


def test_a_file_that_is_put_back_serves_again(users: Users) -> None:
    assert users.create("ada") is OK
    elsewhere = users.file.with_name("elsewhere")
    users.file.rename(elsewhere)
    assert eventually(lambda: not users.serving())
    elsewhere.rename(users.file)
    assert eventually(users.serving)
    assert users.get("ada") is OK


def test_while_a_disk_is_full_health_says_so_and_no_longer(users: Users) -> None:
    def allow(pages: int) -> None:
        # As many as it has at least: then each page more is one too many, as on a full disk.
        users.database.write(
            lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar_one()
        )

    assert users.create("ada") is OK
    allow(1)
    large = {"label": "x" * 60}
    codes = (users.create(f"user-{number}", labels=large) for number in itertools.count())
    assert next(code for code in codes if code is not OK) is UNAVAILABLE
    assert eventually(lambda: not users.serving())
    assert users.get("ada") is OK
    allow(1_000_000)
    assert eventually(users.serving)
    assert users.create("bob", labels=large) is OK


def overwrite_header(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(os.urandom(100))


def overwrite_pages(file: Path) -> None:
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(os.urandom(size - 4096))


@pytest.mark.parametrize("harm", [overwrite_header, overwrite_pages])
def test_a_file_that_is_overwritten_is_unavailable_and_not_ready(users: Users, harm: Callable[[Path], None]) -> None:
    assert users.create("ada") is OK
    with closing(sqlite3.connect(users.file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    harm(users.file)

    # What is in memory still can be read.
    assert eventually(lambda: users.create("bob") is UNAVAILABLE and users.get("ada") in (OK, UNAVAILABLE))
    assert eventually(lambda: not users.serving())


def test_nothing_is_written_into_a_file_that_took_the_place_of_the_one_that_is_open(tmp_path: Path) -> None:
    file, backup = tmp_path / "data", tmp_path / "backup"
    with closing(sqlite3.connect(backup)) as connection:
        connection.execute("CREATE TABLE restored (number INTEGER)")
    content = backup.read_bytes()
    database = Database(sqlite_url(file))
    database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE old (number INTEGER)"))
    for name in ("data-wal", "data-shm"):
        (tmp_path / name).unlink()
    backup.rename(file)
    with pytest.raises(sa.exc.OperationalError, match="was removed or replaced"), database.read():
        pass  # on a new connection
    database.close()
    assert file.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["data"]
