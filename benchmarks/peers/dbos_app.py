"""UpdateUserAndPreferences as a DBOS workflow of two steps, in one process without RPC. Each step is a transaction of
the database that it updates, with its record beside it, so that it happens once.

    python -m benchmarks.peers.dbos_app USERS PREFERENCES SYSTEM      URLs
"""

from __future__ import annotations

import sys

from dbos import DBOS, SQLAlchemyDatasource

from benchmarks import fill
from benchmarks.peers import database, in_process

USERS = 1000
CONNECTIONS = 64


def main(users_url: str, preferences_url: str, system_url: str) -> None:
    DBOS(config={"name": "bench", "system_database_url": system_url, "log_level": "WARNING"})
    users, preferences = (
        SQLAlchemyDatasource.create(url, engine_kwargs={"pool_size": CONNECTIONS})
        for url in (users_url, preferences_url)
    )

    @users.transaction(isolation_level="READ COMMITTED")
    def update_user(user_id: str, display_name: str) -> None:
        database.update_user(users.sql_session().connection(), user_id, display_name)

    @preferences.transaction(isolation_level="READ COMMITTED")
    def update_preferences(user_id: str, theme: str) -> None:
        database.update_preferences(preferences.sql_session().connection(), user_id, theme)

    @DBOS.workflow()
    def update_both(number: int) -> None:
        user_id = fill.user_id(number % USERS)
        update_user(user_id, f"Ada {number}")
        update_preferences(user_id, database.theme(number))

    DBOS.launch()
    in_process.serve(update_both)


if __name__ == "__main__":
    main(*sys.argv[1:])
