"""The two tables of errors, which `docs/errors.md` shows.

`CODES` has the status code of each kind of domain error; reasons are in the classes themselves (`__init__.py`).
`DATABASE_FAILURES` has the domain error that each failure of a database becomes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from handfast.server.chassis import errors
from handfast.server.chassis.errors import DomainError

CODES: Mapping[type[DomainError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.OutcomeUnknown: grpc.StatusCode.UNKNOWN,
    errors.Internal: grpc.StatusCode.INTERNAL,
}


@dataclass(frozen=True, slots=True)
class DatabaseFailure:
    """Failures of a database that are one error to a caller.

    error        the domain error that they become
    message      its message, which says nothing of the database
    sqlstates    error codes of PostgreSQL (its manual, appendix A), or the first two characters for a class of them
    sqlite       result codes of SQLite (https://sqlite.org/rescode.html): extended ones, or a primary one for all that
                 extend it
    classes      names of SQLAlchemy's exceptions, for failures before a database was reached, which have no code
    """

    error: type[DomainError]
    message: str
    sqlstates: tuple[str, ...] = ()
    sqlite: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str | int, ...]:
        """All that a failure may be looked up by."""
        return (*self.sqlstates, *self.sqlite, *self.classes)


SERIALIZATION_FAILURE, DEADLOCK_DETECTED = "40001", "40P01"
"""SQLSTATEs of a local transaction that is to be run again."""
_SQLITE_CONSTRAINT_DATATYPE = 3091  # sqlite3 has no name for it

DATABASE_FAILURES = (
    DatabaseFailure(
        errors.DuplicateValue,
        "A value that must be unique is taken.",
        sqlstates=("23505",),  # unique_violation
        sqlite=(
            sqlite3.SQLITE_CONSTRAINT_UNIQUE,
            sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
            sqlite3.SQLITE_CONSTRAINT_ROWID,
        ),
    ),
    DatabaseFailure(
        errors.ConstraintViolated,
        "What is stored forbids the change.",
        sqlstates=("23503", "23001", "23P01"),  # foreign_key_, restrict_, exclusion_violation
        sqlite=(
            sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
            sqlite3.SQLITE_CONSTRAINT_TRIGGER,  # what SQLite calls a violated ON DELETE RESTRICT, too
        ),
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
        sqlite=(
            sqlite3.SQLITE_CONSTRAINT_NOTNULL,
            sqlite3.SQLITE_CONSTRAINT_CHECK,
            _SQLITE_CONSTRAINT_DATATYPE,
            sqlite3.SQLITE_MISMATCH,
            sqlite3.SQLITE_TOOBIG,
        ),
        classes=("sqlalchemy.exc.DataError",),  # psycopg sends no NUL
    ),
    DatabaseFailure(
        errors.DatabaseConflict,
        "The change lost against another one made at the same time.",
        sqlstates=(SERIALIZATION_FAILURE, DEADLOCK_DETECTED, "55P03"),  # lock_not_available
        sqlite=(sqlite3.SQLITE_BUSY_SNAPSHOT,),
        classes=("sqlalchemy.orm.exc.StaleDataError",),
    ),
    DatabaseFailure(  # where the call's deadline has passed; where it has not, the database is unavailable
        errors.CallDeadlineExceeded,
        "The time was up while the database was at work.",
        sqlstates=("57014",),  # query_canceled
        sqlite=(sqlite3.SQLITE_INTERRUPT,),
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
        sqlite=(
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_PROTOCOL,
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_NOTADB,
        ),
        classes=(
            "sqlalchemy.exc.TimeoutError",  # no connection became free
            "sqlalchemy.exc.OperationalError",  # cannot connect, or the connection is lost
        ),
    ),
)
