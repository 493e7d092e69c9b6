"""Looks up, in `errors/table.py`, the domain error that a failure of a database becomes."""

from __future__ import annotations

from collections.abc import Iterator

from handfast.server.chassis.call import Call
from handfast.server.chassis.cancellation import why_ended
from handfast.server.chassis.errors import CallDeadlineExceeded, DatabaseConflict, DatabaseUnavailable, DomainError
from handfast.server.chassis.errors.table import DATABASE_FAILURES, DatabaseFailure

EARLY = 0.05
"""Seconds before a deadline that count as after it: databases count the time by clocks of their own."""

_BY_KEY = {key: failure for failure in DATABASE_FAILURES for key in failure.keys}
_UNAVAILABLE = next(failure for failure in DATABASE_FAILURES if failure.error is DatabaseUnavailable)


def database_error(error: BaseException, call: Call) -> DomainError | None:
    """The domain error that `error`, an exception of SQLAlchemy or of a driver, becomes. None where the table does not
    have it, as it is a bug or no failure of a database."""
    failure = failure_of(error)
    if failure is None:
        return None
    if failure.error is CallDeadlineExceeded:  # it was interrupted, for what ended the call
        return why_ended(call, early=EARLY) or DatabaseUnavailable(_UNAVAILABLE.message)
    return failure.error(failure.message)


def is_conflict(error: BaseException) -> bool:
    """Whether a local transaction failed over what another one holds, such as the lock of a row. The next attempt may
    succeed."""
    failure = failure_of(error)
    return isinstance(error, DatabaseConflict) or (failure is not None and failure.error is DatabaseConflict)


def failure_of(error: BaseException) -> DatabaseFailure | None:
    """The row of the table that has `error`; None where no row has it."""
    return next((_BY_KEY[key] for key in _keys(error) if key in _BY_KEY), None)


def _keys(error: BaseException) -> Iterator[str | int]:
    """The keys by which the table may have `error`, the most specific first."""
    driver = getattr(error, "orig", error)
    sqlstate, sqlite_code = _sqlstate(driver), getattr(driver, "sqlite_errorcode", None)
    if sqlstate is not None:
        yield from (sqlstate, sqlstate[:2])
    elif isinstance(sqlite_code, int):
        yield from (sqlite_code, sqlite_code & 0xFF)
    else:
        # By name, as a team's own server may do without SQLAlchemy.
        yield from (f"{each.__module__}.{each.__qualname__}" for each in type(error).__mro__)
    if getattr(error, "connection_invalidated", False):
        yield "sqlalchemy.exc.OperationalError"


def _sqlstate(driver: object) -> str | None:
    sqlstate = getattr(driver, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None
