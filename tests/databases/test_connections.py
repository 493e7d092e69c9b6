"""Calls that wait for a database's answer leave connections to what else a server does."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import sqlalchemy as sa

from handfast.server.chassis import DatabaseSettings, open_database
from handfast.server.process.settings import sqlite_url
from handfast.server.users.server import SCHEMA


def test_all_threads_at_their_reads_leave_a_connection_to_metrics_and_background_work(
    database_urls: dict[str, str], tmp_path: Path
) -> None:
    url = database_urls.get("HANDFAST_USERS_DATABASE_URL", sqlite_url(tmp_path / "users.sqlite3"))
    settings = DatabaseSettings(name="users", listen="127.0.0.1:0", database_url=url, threads=3)
    database = open_database(settings, SCHEMA)
    with ExitStack() as stack:
        stack.callback(database.close)
        for _ in range(settings.threads + 1):  # one too many would wait, and fail in the end
            connection = stack.enter_context(database.read())
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
