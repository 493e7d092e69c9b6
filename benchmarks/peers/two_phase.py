"""UpdateUserAndPreferences by two-phase commit of two PostgreSQL databases, in one process without RPC: both updates
prepared, the decision in a durable log of its own database, both committed.

    python -m benchmarks.peers.two_phase USERS PREFERENCES LOG      URLs
"""

from __future__ import annotations

import sys
import threading
import uuid

import sqlalchemy as sa

from benchmarks import fill
from benchmarks.peers import database, in_process

USERS = 1000
CONNECTIONS = 64
_metadata = sa.MetaData()
_log = sa.Table("two_phase_decisions", _metadata, sa.Column("id", sa.String(36), primary_key=True))


class TwoPhase:
    """Each thread keeps its connections."""

    def __init__(self, users: str, preferences: str, log: str) -> None:
        self._users, self._preferences = (sa.create_engine(url, pool_size=CONNECTIONS) for url in (users, preferences))
        self._log = sa.create_engine(log, pool_size=CONNECTIONS, isolation_level="AUTOCOMMIT")
        _metadata.create_all(self._log)
        self._of_thread = threading.local()

    def update(self, number: int) -> None:
        user_id, id_ = fill.user_id(number % USERS), str(uuid.uuid4())
        users, preferences, log = self._connections()
        in_users, in_preferences = users.begin_twophase(f"{id_}-users"), preferences.begin_twophase(f"{id_}-prefs")
        database.update_user(users, user_id, f"Ada {number}")
        in_users.prepare()
        database.update_preferences(preferences, user_id, database.theme(number))
        in_preferences.prepare()
        log.execute(sa.insert(_log), {"id": id_})
        in_users.commit()
        in_preferences.commit()

    def _connections(self) -> tuple[sa.Connection, sa.Connection, sa.Connection]:
        if not hasattr(self._of_thread, "kept"):
            self._of_thread.kept = self._users.connect(), self._preferences.connect(), self._log.connect()
        kept: tuple[sa.Connection, sa.Connection, sa.Connection] = self._of_thread.kept
        return kept


if __name__ == "__main__":
    in_process.serve(TwoPhase(*sys.argv[1:]).update)
