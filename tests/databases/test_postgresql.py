"""The PostgreSQL of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.databases.postgresql import PostgreSQL


@pytest.mark.parametrize("left", ["PG_VERSION", "postgresql.conf"])
def test_a_folder_that_a_first_attempt_left_half_made_is_made_anew(tmp_path: Path, left: str) -> None:
    """PG_VERSION is among the first files that initdb writes; where it is, nobody runs initdb again."""
    (tmp_path / left).write_text("18\n")
    server = PostgreSQL(tmp_path)
    try:
        server.create_databases()
    finally:
        server.stop()
