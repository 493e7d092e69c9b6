"""How SQLite finds rows for what participants and the coordinator do often: by an index, however many there are."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from handfast.server.accounts.server import SCHEMA
from handfast.server.accounts.tables import coordinator
from handfast.server.chassis.clock import now
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.ids import new_id
from handfast.server.process.settings import sqlite_url
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.reply_store import ReplyStore
from handfast.server.transactions.core.model import Decision, Outcome, Read, ResourceName
from handfast.server.transactions.horizon import id_at
from handfast.server.transactions.participant.errors import PendingChange
from tests.transactions.participants import MINUTE, Users, old_id

SMALL = ("SCAN horizon", "SCAN anon_1", "SCAN branches USING INDEX branches_unfinished")
"""A table of one row; a list that a statement is given, and a page that it has found; an index of what is unfinished,
all of which is counted.
"""


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What SQLite runs, with its values, as soon as this is emptied."""
    statements: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: Any, **settings: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **settings)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    return statements


def test_no_statement_of_a_participant_reads_a_table_from_end_to_end(tmp_path: Path, statements: list[str]) -> None:
    path = tmp_path / "users.sqlite3"
    users = Users(sqlite_url(path))
    participant = users.participant
    users.create("ada", "bob", "eve")
    statements.clear()

    swapped, dropped = old_id(30), old_id(20)
    users.stage(swapped, "ada", 1, "countess@example.com")
    users.stage(swapped, "ada", 2, "ada@example.org")
    users.stage_deletion(swapped, "eve", 3)
    users.stage(dropped, "dan", 1)
    users.collection.page("", 10)
    users.collection.batch(["ada", "bob"])
    users.collection.holder("email:countess@example.com")
    locking, reads = old_id(10), [Read(ResourceName("users", key), "-", held=False) for key in ("new", "other")]
    users.lock(locking, 1, *reads)
    users.lock(locking, 2, *reads)
    with pytest.raises(PendingChange):
        users.stage(old_id(5), "new")
    users.collection.revisions(["ada", "new"])
    users.collection.page("", 10, "a")
    users.finish(locking, Outcome.ABORTED, 0)
    users.finish(swapped, Outcome.COMMITTED, 3)
    users.finish(dropped, Outcome.ABORTED, 0)
    participant.sweeper._round()
    participant.sweeper.prune(now() - MINUTE)
    users.database.close()

    assert scans(path, statements, at_least=40) == {}


def test_no_statement_of_the_coordinator_reads_a_table_from_end_to_end(tmp_path: Path, statements: list[str]) -> None:
    path = tmp_path / "transactions.sqlite3"
    database = Database(sqlite_url(path))
    upgrade(database, SCHEMA)
    decisions, replies = DecisionStore(database, coordinator), ReplyStore(database, coordinator.answers)
    statements.clear()

    committed, aborted = new_id(), new_id()
    decisions.decide(Decision(committed, Outcome.COMMITTED, {"users": 1}))
    decisions.decide(Decision(aborted, Outcome.ABORTED, {"users": 0}))
    decisions.find([committed, aborted])
    decisions.unfinished("", 10)
    decisions.mark_finished([committed])
    decisions.prune(id_at(now()))
    replies.find("method", new_id())
    replies.prune()
    database.close()

    assert scans(path, statements, at_least=10) == {}


def scans(path: Path, statements: list[str], at_least: int) -> dict[str, list[str]]:
    """The statements that go through a table, with the plan of each; of at least so many."""
    ran = {text for text in statements if text.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))}
    assert len(ran) >= at_least
    connection = sqlite3.connect(path)
    plans = {text: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")] for text in ran}
    connection.close()
    return {text: plan for text, plan in plans.items() if any(_scans(step) for step in plan)}


def _scans(step: str) -> bool:
    return step.startswith("SCAN") and not step.startswith(SMALL)
