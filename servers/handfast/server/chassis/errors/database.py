"""The domain error that each failure of a database becomes: a table, which `docs/errors.md` shows, and its look-up."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from handfast.server.chassis import errors
from handfast.server.chassis.call import Call
from handfast.server.chassis.cancellation import why_ended
from handfast.server.chassis.errors import DomainError

EARLY = 0.05
"""Seconds before a deadline that count as after it: databases count the time by clocks of their own."""


@dataclass(frozen=True, slots=True)
class DatabaseFailure:
    """Failures of a database that are one error to a caller.

    error        the domain error that they become
    message      its message, which says nothing of the database
    sqlstates    error codes of PostgreSQL (its manual, appendix A), or the first two characters for a class of them
    sqlite       result codes of SQLite (https://sqlite.org/rescode.html), without `SQLITE_`: extended ones, or a
                 primary one for all that extend it
    classes      names of SQLAlchemy's exceptions, for failures before a database was reached, which have no code
    """

    error: type[DomainError]
    message: str
    sqlstates: tuple[str, ...] = ()
    sqlite: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str | int, ...]:
        """All of these as exceptions have them: of SQLite numbers."""
        return (*self.sqlstates, *(_SQLITE_CODES[f"SQLITE_{name}"] for name in self.sqlite), *self.classes)


_SQLITE_CODES = vars(sqlite3) | {"SQLITE_CONSTRAINT_DATATYPE": 3091}  # which sqlite3 does not name

SERIALIZATION_FAILURE, DEADLOCK_DETECTED = "40001", "40P01"
"""SQLSTATEs of a local transaction that is to be run again."""

DATABASE_FAILURES = (
    DatabaseFailure(
        errors.DuplicateValue,
        "A value that must be unique is taken.",
        sqlstates=("23505",),  # unique_violation
        sqlite=("CONSTRAINT_UNIQUE", "CONSTRAINT_PRIMARYKEY", "CONSTRAINT_ROWID"),
    ),
    DatabaseFailure(
        errors.ConstraintViolated,
        "What is stored forbids the change.",
        sqlstates=("23503", "23001", "23P01"),  # foreign_key_, restrict_, exclusion_violation
        sqlite=("CONSTRAINT_FOREIGNKEY", "CONSTRAINT_TRIGGER"),  # which a violated ON DELETE RESTRICT is called, too
    ),
    DatabaseFailure(
        errors.InvalidValue,
        "A value cannot be stored: it is missing, too long, out of range or malformed.",
        sqlstates=(
            "23502",  # not_null_violation
            "23514",  # check_violation
            "22001",  # string_data_right_truncation
            "22003",  # numeric_value_out_of_range
            "22007",  # invalid_datetime_format
            "22008",  # datetime_field_overflow
            "22021",  # character_not_in_repertoire
            "22P02",  # invalid_text_representation
            "22P05",  # untranslatable_character
            "54000",  # program_limit_exceeded: too long for an index
        ),
        sqlite=("CONSTRAINT_NOTNULL", "CONSTRAINT_CHECK", "CONSTRAINT_DATATYPE", "MISMATCH", "TOOBIG"),
        classes=("sqlalchemy.exc.DataError",),  # psycopg sends no NUL
    ),
    DatabaseFailure(
        errors.DatabaseConflict,
        "The change lost against another one made at the same time.",
        sqlstates=(SERIALIZATION_FAILURE, DEADLOCK_DETECTED, "55P03"),  # lock_not_available
        sqlite=("BUSY_SNAPSHOT",),
        classes=("sqlalchemy.orm.exc.StaleDataError",),
    ),
    DatabaseFailure(  # where the call's deadline has passed; where it has not, the database is unavailable
        errors.CallDeadlineExceeded,
        "The time was up while the database was at work.",
        sqlstates=("57014",),  # query_canceled
        sqlite=("INTERRUPT",),
    ),
    DatabaseFailure(
        errors.DatabaseUnavailable,
        "The database does not answer, or takes no more work.",
        sqlstates=(
            "08",  # connection exceptions
            "53",  # insufficient resources: disk, memory, connections
            "57",  # operator intervention: shutting down, starting
            "58",  # system errors: input and output
            "25006",  # read_only_sql_transaction: a standby that was a primary
            "25P03",  # idle_in_transaction_session_timeout
            "XX001",  # data_corrupted
            "XX002",  # index_corrupted
        ),
        sqlite=("BUSY", "LOCKED", "READONLY", "IOERR", "FULL", "CANTOPEN", "PROTOCOL", "CORRUPT", "NOTADB"),
        classes=(
            "sqlalchemy.exc.TimeoutError",  # no connection became free
            "sqlalchemy.exc.OperationalError",  # cannot connect, or the connection is lost
        ),
    ),
)

_KINDS = {key: failure.error for failure in DATABASE_FAILURES for key in failure.keys}
_MESSAGES = {failure.error: failure.message for failure in DATABASE_FAILURES}


def database_error(error: BaseException, call: Call) -> DomainError | None:
    """The domain error that `error`, an exception of SQLAlchemy or of a driver, becomes. None where the table does not
    have it, as it is a bug or no failure of a database."""
    kind = kind_of(error)
    if kind is errors.CallDeadlineExceeded:  # it was interrupted, for what ended the call
        if ended := why_ended(call, early=EARLY):
            return ended
        kind = errors.DatabaseUnavailable
    return None if kind is None else kind(_MESSAGES[kind])


def is_conflict(error: BaseException) -> bool:
    """Whether a local transaction failed over what another one holds, such as the lock of a row. The next attempt may
    succeed."""
    return isinstance(error, errors.DatabaseConflict) or kind_of(error) is errors.DatabaseConflict


def is_undone(error: BaseException) -> bool:
    """Whether nothing can have been stored of a local transaction that failed with this error of SQLAlchemy: another
    one held what it needed, or there was no connection to send it by. After any other error it may be stored, as the
    database can fail between its COMMIT and the answer.
    """
    return is_conflict(error) or getattr(error, "statement", None) is None


def kind_of(error: BaseException) -> type[DomainError] | None:
    """The domain error by which the table has `error`; None where no row has it."""
    return next((_KINDS[key] for key in _keys(error) if key in _KINDS), None)


def _keys(error: BaseException) -> Iterator[str | int]:
    """The keys by which the table may have `error`, the most specific first."""
    driver = getattr(error, "orig", error)
    sqlstate, sqlite_code = getattr(driver, "sqlstate", None), getattr(driver, "sqlite_errorcode", None)
    if isinstance(sqlstate, str):
        yield from (sqlstate, sqlstate[:2])
    elif isinstance(sqlite_code, int):
        yield from (sqlite_code, sqlite_code & 0xFF)
    else:
        # By name, as a team's own server may do without SQLAlchemy.
        yield from (f"{each.__module__}.{each.__qualname__}" for each in type(error).__mro__)
    if getattr(error, "connection_invalidated", False):
        yield "sqlalchemy.exc.OperationalError"
