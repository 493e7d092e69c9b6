"""A database in memory, as the servers' code meets one: an engine with connections that execute statements.

It is what is left of a database when nothing but its guarantees counts. A statement is a Python function of the
connection and the parameters. A local transaction sees its own changes at once, and others do when it commits.

    like SQLite       one local transaction writes at a time; nobody reads what is not committed
    like PostgreSQL   several at a time, READ COMMITTED: every statement sees what was committed when it began; changing
                      or locking a row waits for whoever has it locked; who would wait in a circle loses (40P01)

Between statements, before and after a commit, other tasks may run and the process may crash. What was not committed is
gone then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.errors.database import DEADLOCK_DETECTED
from tests.simulation.transcript import parameters_in_words

if TYPE_CHECKING:
    from tests.simulation.world import World

Key = Any
Columns = dict[str, Any]
Changes = dict[tuple[str, Key], Columns | None]
WHOLE = ("", "")
"""The lock of the whole database."""


class Row:
    """One row of a result, by name, by position, by attribute."""

    __slots__ = ("_columns",)

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def __getitem__(self, name: str | int | slice) -> Any:
        return self._columns[name] if isinstance(name, str) else list(self._columns.values())[name]

    def __getattr__(self, name: str) -> Any:
        return self._columns[name]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._columns.values())


class Result:
    def __init__(self, rows: Iterable[Columns] = (), rowcount: int = 0) -> None:
        self._rows = [Row(columns) for columns in rows]
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def mappings(self) -> Result:
        return self

    def all(self) -> list[Row]:
        return self._rows

    def one_or_none(self) -> Row | None:
        assert len(self._rows) <= 1
        return self._rows[0] if self._rows else None

    def one(self) -> Row:
        (row,) = self._rows
        return row

    def scalar_one_or_none(self) -> Any:
        return self.scalar_one() if self.one_or_none() is not None else None

    def scalar_one(self) -> Any:
        (value,) = self.one()
        return value


class Statement:
    """Stands for a statement of SQLAlchemy, and for `chassis.data.statements.Statement`: what it does is a function of
    the connection and its parameters.
    """

    def __init__(self, does: Callable[[Connection, Columns], Result]) -> None:
        self.does = does

    def all(self, connection: Connection, /, **values: Any) -> list[Row]:
        return connection.execute(self, values).all()

    def first(self, connection: Connection, /, **values: Any) -> Row | None:
        return next(iter(connection.execute(self, values)), None)

    def run(self, connection: Connection, /, **values: Any) -> int:
        return connection.execute(self, values).rowcount

    def run_each(self, connection: Connection, each: Sequence[Columns]) -> int:
        return sum(self.run(connection, **values) for values in each)

    send, send_each = run, run_each


class DriverError(Exception):
    """As a driver reports it."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


def failure(message: str, sqlstate: str) -> DBAPIError:
    return DBAPIError(message, None, DriverError(message, sqlstate))


class Engine:
    def __init__(self, world: World, name: str, *, by_row: bool) -> None:
        self.world, self.name, self.by_row = world, name, by_row
        self.tables: dict[str, dict[Key, Columns]] = {}
        self._locks: dict[tuple[str, Key], dict[Connection, bool]] = {}
        self._waiting: list[Callable[[], None]] = []

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection on which every statement stands alone."""
        yield Connection(self, alone=True)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A local transaction."""
        self.world.pause(f"before a local transaction on {self.name}")
        connection = Connection(self, alone=False)
        try:
            if not self.by_row:
                connection.lock(*WHOLE)
            yield connection
            if connection.changes:
                self.world.pause(f"before a commit on {self.name}")
                if self.world.faults.strikes("connection_lost_before_commit"):
                    raise self._connection_lost("before")
            lost = connection.changes and self.world.faults.strikes("connection_lost_after_commit")
            self._commit(connection)
        finally:
            self._release(connection)
        if connection.changes:
            if lost:
                raise self._connection_lost("after")
            self.world.pause(f"after a commit on {self.name}")

    def _connection_lost(self, when: str) -> DBAPIError:
        self.world.log(self.name, f"breaks the connection of {self.world.process_name()} {when} a commit")
        return failure("connection lost at COMMIT", "08006")

    def _commit(self, connection: Connection) -> None:
        self.world.committing(self, connection.changes)
        for (table, key), columns in connection.changes.items():
            if columns is None:
                self.tables[table].pop(key, None)
            else:
                self.tables[table][key] = columns
        if connection.changes:
            self.world.committed(self, connection.changes)

    def acquire(self, connection: Connection, lock: tuple[str, Key], shared: bool) -> bool:
        """Waits for a lock. Returns whether it had to."""
        waited = False
        while True:
            holders = self._locks.setdefault(lock, {})
            others = [other for other, theirs in holders.items() if other is not connection and not (shared and theirs)]
            if not others:
                holders[connection] = shared and holders.get(connection, True)
                return waited
            waited = True
            connection.waits_for = others
            if connection.waits_in_a_circle():
                connection.waits_for = []
                self.world.log(self.name, f"rolls {self.world.process_name()} back, which is in a deadlock")
                raise failure("deadlock detected", DEADLOCK_DETECTED)
            self._waiting.append(self.world.scheduler.waker())
            self.world.scheduler.park()
            connection.waits_for = []

    def _release(self, connection: Connection) -> None:
        for lock in [lock for lock, holders in self._locks.items() if connection in holders]:
            del self._locks[lock][connection]
            if not self._locks[lock]:
                del self._locks[lock]
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            self.world.scheduler.after(self.world.rng.randrange(50), wake)

    def changed_by_another(self, connection: Connection, lock: tuple[str, Key]) -> bool:
        """Whether a local transaction that is not committed has inserted or deleted this row."""
        return any(
            other is not connection
            and lock in other.changes
            and (other.changes[lock] is None) is (lock[1] in self.tables[lock[0]])
            for other in self._locks.get(lock, ())
        )


class Connection:
    """`alone`: every statement is a transaction of its own."""

    def __init__(self, engine: Engine, *, alone: bool) -> None:
        self._engine, self._alone = engine, alone
        self.changes: Changes = {}
        self.waits_for: list[Connection] = []

    def execute(self, statement: Statement, parameters: Columns | Sequence[Columns] | None = None) -> Result:
        if isinstance(parameters, Sequence):
            for each in parameters:
                self.execute(statement, each)
            return Result()
        world = self._engine.world
        if self._alone:
            world.pause(f"before a read on {self._engine.name}")
            if world.transcript.on:
                world.log(world.process_name(), f"reads {self._engine.name}{parameters_in_words(parameters or {})}")
        elif self._engine.by_row:
            world.pause_between_statements()
        return statement.does(self, parameters or {})

    # What statements are made of

    def get(self, table: str, key: Key) -> Columns | None:
        if (table, key) in self.changes:
            return self.changes[table, key]
        return self._engine.tables[table].get(key)

    def scan(self, table: str) -> list[Columns]:
        rows = self._engine.tables[table]
        if self.changes:
            rows = dict(rows)
            for (changed, key), columns in self.changes.items():
                if changed == table:
                    if columns is None:
                        rows.pop(key, None)
                    else:
                        rows[key] = columns
        return list(rows.values())

    def lock(self, table: str, key: Key, *, shared: bool = False) -> None:
        """Nobody else changes the row until this local transaction ends."""
        if (self._engine.by_row or table == "") and table not in self._engine.world.without.locks:
            self._engine.acquire(self, (table, key), shared)

    def insert(self, table: str, key: Key, columns: Columns) -> bool:
        """INSERT … ON CONFLICT DO NOTHING: it waits only for who is inserting or deleting the same row. Returns whether
        it inserted.
        """
        if self._engine.by_row and self._engine.changed_by_another(self, (table, key)):
            self.lock(table, key)
        if self.get(table, key) is not None:
            return False
        self.lock(table, key)
        if self.get(table, key) is not None:
            return False
        self.changes[table, key] = columns
        return True

    def update(self, table: str, key: Key, columns: Columns) -> int:
        self.lock(table, key)
        row = self.get(table, key)
        if row is None:
            return 0
        self.changes[table, key] = {**row, **{name: value for name, value in columns.items() if name in row}}
        return 1

    def delete(self, table: str, key: Key, where: Callable[[Columns], bool] = lambda row: True) -> int:
        self.lock(table, key)
        row = self.get(table, key)
        if row is None or not where(row):
            return 0
        self.changes[table, key] = None
        return 1

    def waits_in_a_circle(self) -> bool:
        seen: set[Connection] = set()
        ahead = list(self.waits_for)
        while ahead:
            other = ahead.pop()
            if other is self:
                return True
            if other not in seen:
                seen.add(other)
                ahead.extend(other.waits_for)
        return False


class SimulatedDatabase(Database):
    """The servers' own database class upon such an engine: it runs again what lost to another."""

    def __init__(self, engine: Engine) -> None:
        self.dialect = "postgresql" if engine.by_row else "sqlite"
        self._simulated, self._here = engine, threading.local()
        self._refused_until_monotonic_s = 0.0
        self.backend: Any = SimulatedBackend(engine)

    @contextmanager
    def read(self) -> Iterator[Any]:
        with self._simulated.connect() as connection:
            yield connection

    read_durable = read  # there is no standby

    def _run(self, work: Callable[[Any], Any], connection: Any) -> Any:
        return work(connection)


class SimulatedBackend:
    """What the database has its writes done by."""

    replicates = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(self, work: Callable[[Any], Any], one_statement: bool) -> Any:
        with self._engine.begin() as connection:
            return work(connection)

    def note(self, error: DBAPIError) -> None: ...
