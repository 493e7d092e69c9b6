"""What a `Database` needs of an engine, and what both engines have of it in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import sqlalchemy as sa

from handfast.server.chassis.data.metrics import GroupMetrics

if TYPE_CHECKING:
    from handfast.server.chassis.data.database import KeptConnections

Result = TypeVar("Result")

PATIENCE_S = 5.0
"""Seconds to wait for a connection, or for the turn to write, at the most."""
GIVE_UP_AFTER_S = 2.0
"""Seconds from the end of a call until its connection to PostgreSQL is given up, where cancelling does not end its
statement, or must not."""
SESSION = "session"
"""Where the `info` of a connection has its `Session`."""


class DatabaseError(Exception):
    """The database cannot be used, in words for the operator."""


class Session(Protocol):
    """Runs statements on the driver of one connection. Raises the driver's errors."""

    def rows(self, sql: str, parameters: Any) -> list[tuple[Any, ...]]: ...

    def count(self, sql: str, parameters: Any) -> int:
        """How many rows the statement inserted, changed or deleted."""

    def send(self, sql: str, each: Sequence[Any]) -> None:
        """Runs it with each of these parameters, at the latest when the local transaction commits."""

    def flush(self) -> None:
        """Sends what is unsent, as SQLAlchemy is about to execute something by itself."""

    def cancel_scope(self) -> AbstractContextManager[None]:
        """When the call being served is over, the statements of the block fail."""

    def durable(self) -> AbstractContextManager[None]:
        """The one statement of the block locks what it reads. Once the block is left, that is as durable as what a
        `write` has returned for."""

    def reset(self) -> bool:
        """Leaves the connection as its next user needs it. False where that is not possible."""


class Backend:
    """One database of one engine. What an engine has nothing to do for, it leaves out."""

    engine: sa.Engine
    """Of transactions that SQLAlchemy begins and commits, for migrations."""
    autocommit: sa.Engine
    """Of connections on which each statement commits by itself, for migrations."""
    prober: sa.Engine
    """Of a connection that serves nothing but probes."""
    reader: sa.Engine
    """Of connections on which each statement stands alone."""
    kept: KeptConnections
    """Those of `reader`, which the `Database` keeps."""
    dialect: sa.Dialect
    """In which sessions take statements."""
    group_metrics: GroupMetrics
    replicates = False
    """Whether commits wait for a standby, as far as is known."""

    @abstractmethod
    def write(self, work: Callable[[sa.Connection], Result], one_statement: bool) -> Result:
        """Runs `work` in a local transaction, then `check_active`, then commits."""

    def check_durable(self, connection: sa.Connection) -> None:
        """Raises DatabaseError where what is committed might not survive a power cut. PostgreSQL looks at each
        connection that it opens."""

    def check_probed(self, connection: sa.Connection) -> None:
        """Raises the driver's error where the server to which one of `prober` leads might lose commits by now."""

    def try_commit(self, session: Any) -> None:
        """Commits something that changes no data, to see whether a standby gets it. Raises the driver's error where
        that is not answered in time."""

    def tried_wait_s(self, session: Any) -> float:
        """For how many seconds the commit of `try_commit` has waited for its standby; 0 where it does not wait."""
        return 0.0

    def check_committed(self, connection: sa.Connection) -> None:
        """Raises DBAPIError where what was committed on one of `engine` or `autocommit` might not last."""

    def is_there(self) -> bool:
        """False where it is known, without asking the database, that it is absent."""
        return True

    def check_read(self) -> None:
        """Raises DBAPIError where what was read may be of another database."""

    def check_all(self) -> None:
        """Raises DBAPIError where it is known, without asking the database, that it cannot be used."""

    def note(self, error: sa.exc.DBAPIError) -> None:
        """Learns from an error of the database."""

    def close(self) -> None:
        """Closes what is left once `engine`, `prober` and `kept` are closed."""


def opened(engine: sa.Engine) -> sa.Connection:
    """A new connection that SQLAlchemy believes to be in one transaction for good, so that it neither begins nor ends
    any: that is left to whoever has it. Raises DBAPIError where none can be opened."""
    connection = engine.connect()
    connection.begin()
    for name in ("commit", "rollback", "close"):  # on SQLite, of works that are committed with others
        setattr(connection, name, partial(_refuse, name))
    return connection


def _refuse(what: str) -> None:
    raise RuntimeError(f"a connection of a Database is not for its users to {what}; a work that raises is rolled back")


def discard(connection: sa.Connection) -> None:
    """Closes it."""
    connection.invalidate()  # or SQLAlchemy would roll back first, on what may be broken
    sa.Connection.close(connection)


def flush(connection: sa.Connection, *_: Any) -> None:
    """`Session.flush`, before SQLAlchemy executes something. Raises DBAPIError."""
    try:
        connection.info[SESSION].flush()
    except connection.dialect.dbapi.Error as error:  # type: ignore[union-attr]
        raise as_sqlalchemy(connection, error, None) from error


def as_sqlalchemy(connection: sa.Connection, error: BaseException, sql: str | None) -> sa.exc.DBAPIError:
    """What SQLAlchemy makes of an error of the driver, without the values. A broken connection is not used again."""
    orig = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    dialect = connection.dialect
    broken = connection.invalidated or dialect.is_disconnect(orig, connection.connection.dbapi_connection, None)  # type: ignore[arg-type]
    if broken:
        connection.invalidate(orig)
    found = sa.exc.DBAPIError.instance(
        sql,
        None,
        orig,  # type: ignore[arg-type]
        dialect.dbapi.Error,  # type: ignore[union-attr]
        hide_parameters=True,
        connection_invalidated=broken,
        dialect=dialect,
    )
    assert isinstance(found, sa.exc.DBAPIError), orig
    return found


def one_line(cause: object) -> str:
    """The first line of what a driver says."""
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)
