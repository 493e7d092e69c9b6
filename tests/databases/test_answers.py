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
from handfast.server.chassis.data import idempotency
from handfast.server.chassis.data.answers import Answers
from handfast.server.chassis.data.database import Database

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
        yield Kept(database, Answers(database, table), columns)


class Kept(NamedTuple):
    """A table of answers, with one for each of those by whom `insert` was called."""

    database: Database
    answers: Answers
    columns: Mapping[str, Any]

    def insert(self, caller: Caller) -> None:
        with called_by(caller):
            self.database.write(lambda connection: self.answers.insert(connection, **KEY, **self.columns))

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


@pytest.mark.parametrize("other", [STRANGER, ANYBODY])
def test_what_is_enforced_is_its_callers_alone(kept: Kept, other: Caller) -> None:
    kept.insert(ENFORCED)
    assert kept.find(other) is None
    kept.insert(other)
