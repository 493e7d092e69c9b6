"""The finisher stores what participants confirm, however often its database fails it; on a real database each."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from handfast.server.accounts import tables
from handfast.server.accounts.server import SCHEMA
from handfast.server.chassis.data import database as databases
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.ids import new_id
from handfast.server.transactions.coordinator.finisher import Finisher
from handfast.server.transactions.coordinator.register import Register
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.transactions.v1 import transactions_pb2 as pb
from tests.eventually import eventually


class Confirming:
    """Stands for a participant that confirms whatever it is told."""

    def FinishTransactions(self, request: pb.FinishTransactionsRequest, timeout: float) -> Any:
        ids = [decision.transaction_id for decision in request.decisions]
        results = [pb.FinishedTransaction(transaction_id=id_, result=pb.FINISH_RESULT_CONFIRMED) for id_ in ids]
        return pb.FinishTransactionsResponse(results=results)


@pytest.fixture
def register(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    monkeypatch.setattr(databases, "POOL_TIMEOUT", 0.1)
    database = Database(database_url)
    upgrade(database, SCHEMA)
    yield Register(database, tables.coordinator)
    database.close()


@contextmanager
def locked_from_outside(url: str) -> Iterator[Callable[[], object]]:
    """Another program has locked the decisions. What it yields ends the connections to PostgreSQL that wait for it."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield lambda: None
        return
    waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    engine = sa.create_engine(url)
    try:
        with engine.begin() as holder, engine.connect() as other:
            holder.execute(sa.select(tables.coordinator.decisions).with_for_update())
            yield lambda: other.exec_driver_sql(waiting).all()
    finally:
        engine.dispose()


def test_a_confirmation_that_could_not_be_stored_is_stored_later(
    register: Register, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = []
    mark_finished = register.mark_finished

    def marking(transaction_ids: Collection[str]) -> None:
        try:
            mark_finished(transaction_ids)
        except Exception as error:
            failures.append(error)
            raise

    monkeypatch.setattr(register, "mark_finished", marking)
    id_ = new_id()
    register.decide(Decision(id_, Outcome.COMMITTED, {"users": 1, "preferences": 1}))
    stubs: Any = {"users": Confirming(), "preferences": Confirming()}
    finisher = Finisher(register, stubs)
    with locked_from_outside(database_url) as end_who_waits:
        finisher.start()
        assert eventually(lambda: end_who_waits() or failures)
        assert eventually(lambda: failures)
    try:
        assert eventually(lambda: register.count_unfinished() == 0)
    finally:
        finisher.stop(10)
    found, _ = register.find([id_])
    assert found[id_].finish_time is not None
