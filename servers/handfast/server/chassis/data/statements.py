"""Hot statements: written with SQLAlchemy Core, compiled once, and run on the driver's own cursor.

To execute a statement, SQLAlchemy looks up its compiled form and makes a context, a cursor, and a result with its
metadata: some 20 µs where the driver needs 2. A `Statement` keeps what comes out of compiling (the SQL, the order of
the parameters, how values are converted on the way in and out) and does only what is left:

    find = Statement(database, sa.select(users).where(users.c.user_id == sa.bindparam("key")))
    with database.read() as connection:
        row = find.first(connection, key="ada")  # row.email, row.labels, …

It suits the statements that most calls run. All others are as well executed by `connection.execute`, on the same
connection and in the same local transaction. A parameter that is a list is not expanded (`IN (?, ?, …)` would be
another statement for each length): `Database.one_of` compares with a list that is one parameter.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase

from handfast.server.chassis.data.backend import SESSION, as_sqlalchemy
from handfast.server.chassis.data.database import Database

Row = Any
"""A named tuple: values by name of the column and by position; `_asdict()` for a dictionary."""
Core = sa.Select[*tuple[Any, ...]] | UpdateBase
"""A SELECT, or an INSERT, UPDATE or DELETE, which may return rows."""


_PG_FLOAT8, _PG_NUMERIC = 701, 1700
"""How PostgreSQL numbers its types. psycopg makes a `float` of the one and a `Decimal` of the other, and SQLAlchemy of
these what the column says."""


class Statement:
    """A statement of SQLAlchemy Core for connections of one database.

    Values are given by the names of the statement's bind parameters and, for INSERT and UPDATE, of the columns to set;
    which names are given decides what is set. Columns left out of an INSERT get their `default`.

    Errors of the database are raised as SQLAlchemy raises them, as `DBAPIError`s without the values; a connection that
    turns out to be broken is not used again. Raises TypeError for a name that the statement does not have, and
    SQLAlchemy's InvalidRequestError where a value is missing.
    """

    def __init__(self, database: Database, statement: Core) -> None:
        self._database, self._statement = database, statement
        self._forms: dict[tuple[str, ...], _Form] = {}

    def all(self, connection: sa.Connection, /, **values: Any) -> list[Row]:
        """Its rows."""
        form = self._form(values)
        return form.rows(form.execute(connection, connection.info[SESSION].rows, form.parameters(values)))

    def first(self, connection: sa.Connection, /, **values: Any) -> Row | None:
        """Its first row; None where there is none."""
        rows = self.all(connection, **values)
        return rows[0] if rows else None

    def run(self, connection: sa.Connection, /, **values: Any) -> int:
        """How many rows it inserted, changed or deleted."""
        form = self._form(values)
        count: int = form.execute(connection, connection.info[SESSION].count, form.parameters(values))
        return count

    def send(self, connection: sa.Connection, /, **values: Any) -> None:
        """Runs it at the latest with the next statement of the local transaction, or with its COMMIT, in the same round
        trip to the database. Its error comes from there. For a `write` only, where nobody needs the number of rows.
        """
        self.send_each(connection, (values,))

    def send_each(self, connection: sa.Connection, each: Sequence[Mapping[str, Any]]) -> None:
        """`send` with each of these values, which all have the same names."""
        if each:
            form = self._form(each[0])
            parameters = [form.parameters(values) for values in each]
            form.execute(connection, connection.info[SESSION].send, parameters)

    def _form(self, values: Mapping[str, Any]) -> _Form:
        names = tuple(values)
        form = self._forms.get(names)
        if form is None:
            form = self._forms[names] = _Form(self._statement, self._database.backend.dialect, names)
        return form


class _Form:
    """The statement as compiled for values of these names."""

    def __init__(self, statement: Core, dialect: sa.Dialect, names: tuple[str, ...]) -> None:
        compiled: SQLCompiler = statement.compile(dialect=dialect, column_keys=names)
        binds = {name: bind for bind, name in compiled.bind_names.items()}
        if unknown := sorted(set(names) - set(binds)):
            raise TypeError(f"the statement has no parameter {', '.join(unknown)}: {compiled}")
        if lists := sorted(name for name, bind in binds.items() if bind.expanding):
            raise TypeError(f"the statement expands the list {', '.join(lists)}, see Database.one_of: {compiled}")
        # What it is bound to besides values that are given, such as the 1 of LIMIT 1. This raises where one is missing.
        state = compiled.construct_expanded_state(dict.fromkeys(names), escape_names=False)
        prefetched = (*compiled.insert_prefetch, *compiled.update_prefetch)
        defaults: list[tuple[str, Any]] = [
            (column.key, column.onupdate if compiled.isupdate else column.default) for column in prefetched
        ]
        self._sql = state.statement
        self._constants = {name: state.parameters[name] for name in binds if name not in names}
        self._defaults = [(name, default.arg) for name, default in defaults if default.is_callable]
        self._constants.update((name, default.arg) for name, default in defaults if default.is_scalar)
        if other := [name for name, default in defaults if not (default.is_callable or default.is_scalar)]:
            raise InvalidRequestError(f"the default of {', '.join(other)} is a statement of its own: {compiled}")
        processes = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in binds.items()}
        self._in = [(name, process) for name, process in processes.items() if process is not None]
        assert state.positiontup is not None, dialect.paramstyle
        self._order = state.positiontup
        columns = list(statement.exported_columns)
        self._row: Any = namedtuple("Row", [str(column.key) for column in columns], rename=True)  # type: ignore[misc]
        results = [
            column.type.dialect_impl(dialect).result_processor(dialect, _type_code(column.type)) for column in columns
        ]
        self._out = [(position, process) for position, process in enumerate(results) if process is not None]

    def execute(self, connection: sa.Connection, method: Callable[[str, Any], Any], parameters: Any) -> Any:
        """Has it executed by a method of the connection's session."""
        try:
            return method(self._sql, parameters)
        except connection.dialect.dbapi.Error as error:  # type: ignore[union-attr]
            raise as_sqlalchemy(connection, error, self._sql) from error

    def parameters(self, given: Mapping[str, Any]) -> list[Any]:
        """In the order in which the driver takes them."""
        values = {**given, **self._constants}
        for name, default in self._defaults:
            values[name] = default(None)
        for name, process in self._in:
            values[name] = process(values[name])
        return list(map(values.__getitem__, self._order))

    def rows(self, found: list[tuple[Any, ...]]) -> list[Row]:
        if not self._out:
            return list(map(self._row._make, found))
        rows = []
        for each in found:
            row = list(each)
            for position, process in self._out:
                row[position] = process(row[position])
            rows.append(self._row._make(row))
        return rows


def _type_code(type_: sa.types.TypeEngine[Any]) -> int | None:
    """What a driver says of a column of this type, as far as SQLAlchemy asks for it."""
    if isinstance(type_, sa.Float):
        return _PG_FLOAT8
    return _PG_NUMERIC if isinstance(type_, sa.Numeric) else None
