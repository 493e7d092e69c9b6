"""What an exception of SQLAlchemy means to a caller."""

from __future__ import annotations

import sqlite3
import sys

from handfast.server.chassis.call import current
from handfast.server.chassis.errors import CallDeadlineExceeded, DatabaseConflict, DatabaseUnavailable, DomainError

# By SQLSTATE, whole or by its class (PostgreSQL, appendix A).
_CONFLICTS = frozenset({"40001", "40P01", "55P03"})  # serialization failure, deadlock, lock not available
_UNAVAILABLE_CLASSES = frozenset({"08", "53", "57", "58"})  # connection, resources, operator's doing, system
_QUERY_CANCELED = "57014"

# By SQLite's primary result code.
_SQLITE_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


def database_error(error: BaseException) -> DomainError | None:
    """The domain error that `error` amounts to, or None where it is no failure of the database but a bug."""
    if "sqlalchemy" not in sys.modules:  # a team's own server may do without
        return None
    from sqlalchemy import exc

    if isinstance(error, exc.TimeoutError):
        return DatabaseUnavailable("The database is busy: no connection became free in time.")
    if not isinstance(error, exc.DBAPIError):
        return None
    sqlstate = getattr(error.orig, "sqlstate", None)
    sqlite_code = getattr(error.orig, "sqlite_errorcode", None)
    if sqlstate == _QUERY_CANCELED or sqlite_code == sqlite3.SQLITE_INTERRUPT:
        remaining = current().remaining()
        if remaining is not None and remaining <= 0:
            return CallDeadlineExceeded("The deadline passed while the database was at work.")
        return DatabaseUnavailable("The database's work was interrupted.")
    if sqlstate in _CONFLICTS:
        return DatabaseConflict("The database chose this call as the loser of a conflict.")
    unreachable = (
        error.connection_invalidated
        or (sqlstate is not None and sqlstate[:2] in _UNAVAILABLE_CLASSES)
        or (sqlite_code is not None and sqlite_code & 0xFF in _SQLITE_UNAVAILABLE)
        # Refused or lost before the server could say why.
        or (isinstance(error, exc.OperationalError) and sqlstate is None and sqlite_code is None)
    )
    return DatabaseUnavailable("The database did not answer.") if unreachable else None
