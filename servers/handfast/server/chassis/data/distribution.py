"""Which rows belong together where a database spreads its tables over many machines, and what goes beyond one key.

The rows of a table are spread by its distribution key: the first column of the primary key, or what the table's `info`
names. A statement finds its rows by that key, or by a list of such keys, or says by `across_keys` that it does not.
Tables of a few rows, which each machine may have as a whole, are `small`. A test looks at each statement that the
servers send.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.sql.selectable import HasPrefixes

_KEY, _SMALL = "distribution_key", "small"

AnyStatement = TypeVar("AnyStatement", bound=HasPrefixes)


class Reason(StrEnum):
    """Why a statement goes beyond one key."""

    MAINTENANCE = "maintenance"
    """Sweeps, prunes and counts, in the background. No call waits for it."""
    PAGE = "page"
    """A page of a list, in the order of keys."""
    PENDING_CHANGE = "pending change"
    """A row together with what an open transaction makes of it, which one statement has to read (rule 7)."""
    LOCK_HOLDERS = "lock holders"
    """The transactions that hold a read lock of a row."""
    ERASURE = "erasure"
    """The stored replies about a resource that is deleted."""


def across_keys(reason: Reason, statement: AnyStatement) -> AnyStatement:
    """Marks a statement by a comment in its text, which the database's own views and logs show, too."""
    return statement.prefix_with(f"/* across keys, {reason} */")


def spread_by(column: str) -> dict[str, str]:
    """The `info` of a table whose distribution key is not the first column of its primary key."""
    return {_KEY: column}


def small() -> dict[str, bool]:
    """The `info` of a table that has few rows, or one, which change seldom."""
    return {_SMALL: True}


def distribution_key(table: sa.Table) -> str | None:
    """The column by which the rows of a table are spread; None for one that is small."""
    if table.info.get(_SMALL):
        return None
    return str(table.info.get(_KEY) or next(iter(table.primary_key)).name)
