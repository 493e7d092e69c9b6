"""Fills the databases of a suite with more than calls could make in a reasonable time."""

from __future__ import annotations

import time
from collections.abc import Mapping

import sqlalchemy as sa

from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND
from handfast.server.transactions.horizon import id_at

_FIRST = 10_000_000  # so that all numbers have as many digits, whatever the engine
_USER = f"'user-' || ({_FIRST} + number)"
_EMAIL = f"{_USER} || '@example.com'"


def user_id(number: int) -> str:
    return f"user-{_FIRST + number}"


def users(database_urls: Mapping[str, str], count: int) -> None:
    """Makes so many users with preferences."""
    with _connected(database_urls["users"]) as connection:
        _insert(
            connection,
            count,
            "users (user_id, email, display_name, locale, time_zone, labels, create_time, update_time, etag, present, "
            "last_transaction_id)",
            f"{_USER}, {_EMAIL}, 'Ada Lovelace', 'en-GB', 'Europe/London', '{{}}', 1, 1, '0123456789abcdef', TRUE, ''",
        )
        _insert(connection, count, "claims (value, holder)", f"'email:' || {_EMAIL}, {_USER}")
    with _connected(database_urls["preferences"]) as connection:
        _insert(
            connection,
            count,
            'preferences (user_id, "values", update_time, etag, present, last_transaction_id)',
            f"{_USER}, '{{\"theme\": \"light\"}}', 1, '0123456789abcdef', TRUE, ''",
        )


def finished_transactions(database_urls: Mapping[str, str], count: int) -> None:
    """Makes so many committed transactions, of an hour ago, that both participants have finished."""
    hour_ago_us = (int(time.time()) - 3600) * MICROSECONDS_PER_SECOND
    id_ = f"'{id_at(hour_ago_us)[:-12]}' || ({10**11} + number)"  # decimal digits are hexadecimal ones, too
    with _connected(database_urls["transactions"]) as connection:
        _insert(
            connection,
            count,
            "decisions (transaction_id, outcome, branches, abort_reason, decide_time, finish_time)",
            f"""{id_}, 'COMMITTED', '{{"users": 1, "preferences": 1}}', '', {hour_ago_us}, {hour_ago_us}""",
        )
    for participant in ("users", "preferences"):
        with _connected(database_urls[participant]) as connection:
            _insert(
                connection,
                count,
                "branches (transaction_id, state, deadline, first_attempt, staged, outcome)",
                f"{id_}, 'FINISHED', {hour_ago_us}, {id_}, 1, 'COMMITTED'",
            )


def _connected(url: str) -> sa.Connection:
    return sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect()


def _insert(connection: sa.Connection, count: int, columns: str, values: str) -> None:
    """Rows of `values`, in which `number` runs from 0 on."""
    if count:
        numbers = (
            f"WITH RECURSIVE numbers (number) AS "
            f"(SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < {count - 1})"
        )
        connection.exec_driver_sql(f"{numbers} INSERT INTO {columns} SELECT {values} FROM numbers")
        connection.exec_driver_sql("ANALYZE")
