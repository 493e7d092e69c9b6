"""Tells of a statement of PostgreSQL whether it finds its rows by one distribution key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import sqlalchemy as sa
import sqlglot
from sqlglot import exp

from handfast.server.chassis.data.distribution import Reason, distribution_key

_MARK = re.compile(r"/\* across keys, ([a-z ]+) \*/")
_OF_NO_ROWS = re.compile(r"BEGIN|COMMIT|ROLLBACK|SHOW|SET|SELECT set_config|SELECT pg_backend_pid", re.IGNORECASE)
_LOCK_TABLE = re.compile(r'LOCK TABLE "?(\w+)"?')

Keys = Mapping[str, str | None]
"""The distribution key of each table, None of those that are small."""


def keys_of(tables: Iterable[sa.Table]) -> Keys:
    return {table.name: distribution_key(table) for table in tables}


def reason_of(sql: str) -> Reason | None:
    """Why the statement says that it goes beyond one key; None where it does not say so."""
    found = _MARK.search(sql)
    return None if found is None else Reason(found[1])


def complaint(sql: str, keys: Keys) -> str | None:
    """What is wrong with a statement that is not marked; None where its rows are found by one key."""
    if _OF_NO_ROWS.match(sql):
        return None
    if locked := _LOCK_TABLE.match(sql):
        return f"it locks the table {locked[1]}" if keys[locked[1]] else None
    statement = sqlglot.parse_one(sql, dialect="postgres")
    if not isinstance(statement, exp.Select | exp.Insert | exp.Update | exp.Delete):
        return "it is none of SELECT, INSERT, UPDATE and DELETE"
    found_by = set()
    for table, alias in _tables(statement):
        if table.startswith("pg_"):  # a view of the system
            continue
        if table not in keys:
            return f"the table {table} is unknown"
        key = keys[table]
        if key is None:
            continue
        if isinstance(statement, exp.Insert) and alias == statement.this.find(exp.Table).name:
            values = _inserted(statement, key)
        else:
            values = _equal(statement, alias, key)
        if not any(_is_given(value) for value in values):
            return f"the rows of {table} are not found by {key}"
        found_by.add(key)
    if len(found_by) > 1:
        return f"its rows are found by {' and by '.join(sorted(found_by))}"
    return None


def _tables(statement: exp.Expr) -> Iterator[tuple[str, str]]:
    for table in statement.find_all(exp.Table):
        if not table.find_ancestor(exp.Lock):  # FOR UPDATE OF names one again
            yield table.name, table.alias_or_name


def _inserted(statement: exp.Insert, key: str) -> Iterator[exp.Expr]:
    """What an INSERT gives for the key."""
    position = [column.name for column in statement.this.expressions].index(key)
    source = statement.expression
    rows = [row.expressions for row in source.expressions] if isinstance(source, exp.Values) else [source.expressions]
    for row in rows:
        yield row[position]


def _equal(statement: exp.Expr, alias: str, key: str) -> Iterator[exp.Expr]:
    """What a column has to equal, in all rows that the statement reads or changes."""
    for equal in statement.find_all(exp.EQ):
        if not _is_condition(equal):
            continue
        for column, value in ((equal.this, equal.expression), (equal.expression, equal.this)):
            if isinstance(column, exp.Column) and column.name == key and column.table in ("", alias):
                yield value


def _is_condition(equal: exp.Expr) -> bool:
    """Whether it stands in a WHERE, with nothing around it but AND."""
    parent = equal.parent
    while isinstance(parent, exp.And | exp.Paren):
        parent = parent.parent
    return isinstance(parent, exp.Where)


def _is_given(value: exp.Expr) -> bool:
    """Whether it is a value, or a list of them, that comes with the statement."""
    return value.find(exp.Column) is None and value.find(exp.Parameter, exp.Literal) is not None
