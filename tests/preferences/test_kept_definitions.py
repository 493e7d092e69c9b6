"""Definitions are kept in memory, and callers can make any number of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast.preferences.v1.preferences_pb2 import PREFERENCE_TYPE_BOOLEAN
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.preferences import definitions
from handfast.server.preferences.server import SCHEMA
from handfast.server.process.settings import sqlite_url
from tests.preferences.requests import definition


def test_what_is_kept_of_definitions_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions, "KEPT_BYTES", 500)
    database = Database(sqlite_url(tmp_path / "preferences.sqlite3"))
    upgrade(database, SCHEMA)
    made = [definition(PREFERENCE_TYPE_BOOLEAN, description="x" * 100) for _ in range(10)]
    known = definitions.Definitions(database)
    for each in made:
        database.write(lambda connection, each=each: known.add(connection, each))  # type: ignore[misc]
    for _ in range(2):
        for each in made:
            assert set(known.find([each.key, "theme", "nobody"])) == {each.key, "theme"}
            assert 0 < sum(kept.ByteSize() for kept in known._known.values()) <= 500
    assert set(known.find([each.key for each in made])) == {each.key for each in made}
    database.close()
