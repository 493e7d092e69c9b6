"""The suite's tables as who writes plain SQLAlchemy Core reads and updates them: one local transaction for each update,
committed as durably as the suite commits (`synchronous = FULL` on SQLite, PostgreSQL as it comes).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from handfast.server.chassis.clock import timestamp
from handfast.server.preferences.tables import preferences
from handfast.server.users.tables import users
from handfast.users.v1.users_pb2 import User

_IS_USER = users.c.user_id == sa.bindparam("id_")
_IS_PREFERENCES = preferences.c.user_id == sa.bindparam("id_")
SELECT_USER = sa.select(users).where(_IS_USER)
LOCK_USER = sa.select(users).where(_IS_USER).with_for_update()
UPDATE_USER = sa.update(users).where(_IS_USER)
LOCK_PREFERENCES = sa.select(preferences).where(_IS_PREFERENCES).with_for_update()
UPDATE_PREFERENCES = sa.update(preferences).where(_IS_PREFERENCES)


def engine(url: str, connections: int) -> sa.Engine:
    made = sa.create_engine(url, pool_size=connections)
    if url.startswith("sqlite"):
        sa.event.listen(made, "connect", prepare_sqlite)
        sa.event.listen(made, "begin", begin_immediately)
    return made


def prepare_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself
    cursor = connection.cursor()
    for setting in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 30000"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def begin_immediately(connection: sa.Connection) -> None:
    """Who will write takes the lock at once, instead of failing half way; who only reads begins nothing."""
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def user(row: Mapping[Any, Any]) -> User:
    return User(
        user_id=row["user_id"],
        email=row["email"],
        display_name=row["display_name"],
        locale=row["locale"],
        time_zone=row["time_zone"],
        labels=row["labels"],
        create_time=timestamp(row["create_time"]),
        update_time=timestamp(row["update_time"]),
        etag=row["etag"],
    )


def update_user(connection: sa.Connection, user_id: str, display_name: str) -> None:
    connection.execute(LOCK_USER, {"id_": user_id}).one()
    connection.execute(UPDATE_USER, {"id_": user_id, "display_name": display_name, **stamp()})


def update_preferences(connection: sa.Connection, user_id: str, theme: str) -> None:
    row = connection.execute(LOCK_PREFERENCES, {"id_": user_id}).one()
    values = row._mapping["values"] | {"theme": theme}
    connection.execute(UPDATE_PREFERENCES, {"id_": user_id, "values": values, **stamp()})


def theme(number: int) -> str:
    """One of two that a user may choose; with each round over all users the other one."""
    return ("light", "dark")[number // 1000 % 2]


def stamp() -> dict[str, object]:
    return {"update_time": time.time_ns() // 1000, "etag": secrets.token_hex(8)}
