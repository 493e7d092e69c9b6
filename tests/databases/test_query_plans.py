"""How SQLite finds rows for what a participant does often: by an index, however many there are."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from handfast.server.chassis.clock import now
from handfast.server.process.settings import sqlite_url
from handfast.server.transactions.core.model import Outcome
from tests.transactions.participants import MINUTE, Users, old_id

SMALL = ("SCAN horizon", "SCAN anon_1")
"""A table of one row; a list that a statement is given, and a page that it has found."""


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
    participant.page("", 10)
    participant.batch(["ada", "bob"])
    participant.holder("email:countess@example.com")
    users.finish(swapped, Outcome.COMMITTED, 3)
    users.finish(dropped, Outcome.ABORTED, 0)
    participant.sweeper.sweep()
    participant.sweeper.prune(now() - MINUTE)

    ran = {text for text in statements if text.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))}
    connection = sqlite3.connect(path)
    plans = {text: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")] for text in ran}
    connection.close()
    scans = {text: plan for text, plan in plans.items() if any(_scans(step) for step in plan)}
    assert len(plans) > 30
    assert scans == {}


def _scans(step: str) -> bool:
    return step.startswith("SCAN") and not step.startswith(SMALL)
