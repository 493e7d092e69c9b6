"""Of whose calls a call is a repeat, on each engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from handfast.client.propagation import propagating
from handfast.server.accounts import tables
from handfast.server.chassis.call import Call, Method, Pool
from handfast.server.chassis.data import answers as module
from handfast.server.chassis.data import idempotency
from handfast.server.chassis.data.answers import Answers
from handfast.server.chassis.data.database import Database
from tests.databases.postgresql import PostgreSQL

METHOD = Method("/s/m", "s", "m", "unary", "s", Pool("calls", 1))


class Caller(NamedTuple):
    """Whom a server takes somebody for, and whether it refuses those it does not know."""

    name: str | None
    enforced: bool = False


ANYBODY, OBSERVED, ENFORCED, STRANGER = Caller(None), Caller("ada"), Caller("ada", True), Caller("eve", True)

REQUESTS = idempotency.define(sa.MetaData())
KEY = {"method": "m", "request_id": "r"}
COLUMNS: Mapping[str, tuple[sa.Table, Mapping[str, Any]]] = {
    "of a participant": (
        REQUESTS,
        {"fingerprint": b"f", "reply": b"1", "create_time": 1, "about": None, "is_erased": False},
    ),
    "of the coordinator": (
        tables.coordinator.answers,
        {"fingerprint": b"f", "transaction_id": "t", "reply": b"1", "failure": None, "create_time": 1},
    ),
}


@contextlib.contextmanager
def called_by(caller: Caller) -> Iterator[None]:
    call = Call(METHOD, METHOD.path)
    guard: Any = SimpleNamespace(enforced=caller.enforced)
    call.caller, call.guard = caller.name, guard
    with propagating(call):
        yield


@pytest.fixture(params=COLUMNS)
def kept(request: pytest.FixtureRequest, new_url: str) -> Iterator[Kept]:
    table, columns = COLUMNS[request.param]
    with contextlib.closing(Database(new_url)) as database:
        database.write(table.create)
        yield Kept(database, Answers(database, table), columns, table)


class Kept(NamedTuple):
    """A table of answers, with one for each of those by whom `insert` was called."""

    database: Database
    answers: Answers
    columns: Mapping[str, Any]
    table: sa.Table

    def insert(self, caller: Caller) -> None:
        with called_by(caller):
            self.database.write(lambda connection: self.answers.insert(connection, **KEY, **self.columns))

    def insert_old(self, request_id: str, time: int) -> None:
        values = {**KEY, **self.columns, "request_id": request_id, "create_time": time}
        self.database.write(lambda connection: self.answers.insert(connection, **values))

    def left(self) -> int:
        with self.database.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(self.table)).scalar_one())

    def find(self, caller: Caller) -> bytes | None:
        with called_by(caller), self.database.read_durable() as connection:
            row = self.answers.find(connection, **KEY)
            return None if row is None else bytes(row.reply)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (ANYBODY, ANYBODY),
        (ANYBODY, OBSERVED),
        (ANYBODY, ENFORCED),
        (ANYBODY, STRANGER),  # what was for anybody
        (OBSERVED, ANYBODY),
        (OBSERVED, OBSERVED),
        (OBSERVED, ENFORCED),
        (ENFORCED, OBSERVED),
        (ENFORCED, ENFORCED),
    ],
)
def test_a_repeat_is_found_and_inserts_nothing(kept: Kept, first: Caller, then: Caller) -> None:
    kept.insert(first)
    with pytest.raises(IntegrityError):
        kept.insert(then)
    assert kept.find(then) == b"1"


def test_old_answers_are_forgotten_some_at_a_time_until_none_is_left(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FORGOTTEN_AT_ONCE", 2)
    answers = Answers(kept.database, kept.table)
    for number in range(5):
        kept.insert_old(str(number), time=number)
    once = iter([True, False])
    answers.forget(4, lambda: next(once))
    assert kept.left() == 3
    answers.forget(4)
    assert kept.left() == 1


def test_answers_that_one_replica_forgets_another_does_not_wait_for(server: PostgreSQL) -> None:
    with contextlib.closing(Database(server.emptied())) as database:
        database.write(REQUESTS.create)
        kept = Kept(database, Answers(database, REQUESTS), COLUMNS["of a participant"][1], REQUESTS)
        for number in range(3):
            kept.insert_old(str(number), time=number)
        with database.engine.begin() as replica:
            replica.execute(sa.select(REQUESTS).where(REQUESTS.c.request_id == "1").with_for_update())
            kept.answers.forget(10)
            assert kept.left() == 1
        kept.answers.forget(10)
        assert kept.left() == 0


@pytest.mark.parametrize("other", [STRANGER, ANYBODY])
def test_what_is_enforced_is_its_callers_alone(kept: Kept, other: Caller) -> None:
    kept.insert(ENFORCED)
    assert kept.find(other) is None
    kept.insert(other)
