"""Tells of a statement of PostgreSQL whether it finds its rows by one distribution key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import sqlalchemy as sa
import sqlglot
from sqlglot import exp

from handfast.server.chassis.data.distribution import Reason, distribution_key

_MARK = re.compile(r"/\* across keys, ([a-z ]+) \*/")
_OF_NO_ROWS = re.compile(r"(BEGIN|COMMIT|ROLLBACK|SHOW|SET)\b[^;]*", re.IGNORECASE)
_READERS = (exp.Select, exp.Update, exp.Delete)
_GIVEN = (exp.Parameter, exp.Literal)
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
    if _OF_NO_ROWS.fullmatch(sql):
        return None
    if locked := _LOCK_TABLE.match(sql):
        return f"it locks the table {locked[1]}" if keys[locked[1]] else None
    statement, *more = sqlglot.parse(sql, dialect="postgres")
    if more or not isinstance(statement, exp.Query | exp.Insert | exp.Update | exp.Delete):
        return "it is no single SELECT, INSERT, UPDATE or DELETE"
    target = None if isinstance(statement, exp.Query) else statement.this.find(exp.Table)
    found_by = set()
    for source in _tables(statement):
        table = source.name
        if table.startswith("pg_"):  # a view of the system
            continue
        if table not in keys:
            return f"the table {table} is unknown"
        key = keys[table]
        if key is None:
            continue
        if isinstance(statement, exp.Insert) and source is target:
            values = set(_inserted(statement, key))
            if not all(map(_is_given, values)):
                return f"the {key} of what it inserts into {table} is not given"
        else:
            values = {value for value in _equal(source, key) if _is_given(value)}
            if not values:
                return f"the rows of {table} are not found by {key}"
        if source is target and key in _changed(statement):
            return f"it changes the {key} of {table}"
        given = (value.find(*_GIVEN) for value in values)
        found_by |= {f"{key} = {each.sql('postgres')}" for each in given if each is not None}
    if len(found_by) > 1:
        return f"its rows are found by {' and by '.join(sorted(found_by))}"
    return None


def _tables(statement: exp.Expr) -> Iterator[exp.Table]:
    for table in statement.find_all(exp.Table):
        if not table.find_ancestor(exp.Lock):  # FOR UPDATE OF names one again
            yield table


def _changed(statement: exp.Expr) -> set[str]:
    """The columns that an UPDATE, or the ON CONFLICT of an INSERT, sets."""
    conflict = statement.args.get("conflict")
    return {each.this.name for each in (conflict or statement).expressions if isinstance(each, exp.EQ)}


def _inserted(statement: exp.Insert, key: str) -> Iterator[exp.Expr]:
    """What an INSERT gives for the key."""
    position = [column.name for column in statement.this.expressions].index(key)
    source = statement.expression
    rows = [row.expressions for row in source.expressions] if isinstance(source, exp.Values) else [source.expressions]
    for row in rows:
        yield row[position]


def _equal(table: exp.Table, key: str) -> Iterator[exp.Expr]:
    """What a column of a table has to equal, in all rows of it that are read or changed."""
    reader = table.find_ancestor(*_READERS)
    for equal in reader.find_all(exp.EQ) if reader is not None else ():
        if not _is_condition(equal) or equal.find_ancestor(*_READERS) is not reader:
            continue
        for column, value in ((equal.this, equal.expression), (equal.expression, equal.this)):
            if isinstance(column, exp.Column) and column.name == key and column.table in ("", table.alias_or_name):
                yield value


def _is_condition(equal: exp.Expr) -> bool:
    """Whether it stands in a WHERE, with nothing around it but AND."""
    parent = equal.parent
    while isinstance(parent, exp.And | exp.Paren):
        parent = parent.parent
    return isinstance(parent, exp.Where)


def _is_given(value: exp.Expr) -> bool:
    """Whether it is a value, or a list of them, that comes with the statement."""
    return value.find(exp.Column) is None and value.find(*_GIVEN) is not None
