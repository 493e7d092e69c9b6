"""Whether columns can hold what a resource is to become, on every database alike.

A staged change is committed before it is applied, and must not fail then. So each value is checked when a write makes
it, and what could fail for the sake of other rows is refused in the table.
"""

from __future__ import annotations

import datetime
import json
import math
import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from handfast.server.chassis.errors import InvalidValue
from handfast.server.chassis.requests.fields import CONTROL_CHARACTER
from handfast.server.transactions.participant.tables import resource_columns

LIBRARY_COLUMNS = frozenset(column.name for column in resource_columns())
MAX_INDEXED_TEXT = 600
"""Characters: PostgreSQL's indexes take up to 2,704 bytes, and a character up to 4."""

_BITS = ((sa.SmallInteger, 16), (sa.BigInteger, 64), (sa.Integer, 32))  # the first that fits
_to_json = json.JSONEncoder(allow_nan=False).encode

Check = Callable[[Any], None]
"""Raises ValueError, which says the rule that a value breaks."""


class StorableColumns:
    """The columns of a table of resources, but those of the library. Raises ValueError where the table could refuse
    what each column takes.
    """

    def __init__(self, table: sa.Table, key: sa.Column[Any]) -> None:
        _require_no_other_rules(table)
        self._table, self._key, self._check_key = table.name, key.name, _check(key)
        self._check_unique_value = _text(MAX_INDEXED_TEXT)
        ours = {*LIBRARY_COLUMNS, key.name}
        self._checks = {column.name: _check(column) for column in table.columns if column.name not in ours}

    def check_key(self, key: str) -> None:
        """Raises InvalidValue, which names the column, where no resource can have this key."""
        try:
            self._check_key(key)
            if not key:
                raise ValueError("must not be empty")
            if CONTROL_CHARACTER.search(key):  # which no text that names the resource has
                raise ValueError("must not have control characters")
        except ValueError as error:
            raise cannot_store(f"{self._table}.{self._key}", rule_of(error)) from None

    def check_unique_value(self, value: str) -> None:
        """Raises InvalidValue."""
        try:
            self._check_unique_value(value)
        except ValueError as error:
            raise cannot_store(self._table, f"a unique value {rule_of(error)}") from None

    def check(self, values: Mapping[str, Any]) -> None:
        """Raises InvalidValue, which names the column; TypeError for a column that the table does not have."""
        name, checks = "", self._checks
        try:
            for name, value in values.items():
                checks[name](value)
        except Exception as error:  # json has errors of many kinds
            if name not in checks:
                raise TypeError(f"{self._table} has no column {name} that a resource sets") from None
            raise cannot_store(f"{self._table}.{name}", rule_of(error)) from error


def rule_of(error: Exception) -> str:
    """What an error of a value says to callers; those of libraries are for others."""
    return str(error) if type(error) is ValueError else "cannot be stored"


def cannot_store(what: str, rule: str) -> InvalidValue:
    return InvalidValue(f"{what}: {rule}.", column=what)


def _require_no_other_rules(table: sa.Table) -> None:
    """What rests on other rows, or on other columns, can have changed until a change is applied."""
    rules = [each for each in table.constraints if not isinstance(each, sa.PrimaryKeyConstraint)]
    indexes = [index for index in table.indexes if index.unique]
    references = [
        each for other in table.metadata.tables.values() for each in other.foreign_keys if each.references(table)
    ]
    if found := [*rules, *indexes, *references]:
        raise ValueError(
            f"{table.name}: a table of resources has no CHECK, UNIQUE, FOREIGN KEY or unique index, as a change has to "
            f"be applied once it is committed: {', '.join(map(repr, found))}. Check values in the service, and say "
            "what is unique by `unique_values`"
        )
    for index in table.indexes:
        if not all(map(_fits_into_an_index, index.columns)):
            raise ValueError(f"{index.name}: an index takes only texts of up to {MAX_INDEXED_TEXT} characters")


def _fits_into_an_index(column: sa.Column[Any]) -> bool:
    type_ = column.type
    if isinstance(type_, sa.String):
        return type_.length is not None and type_.length <= MAX_INDEXED_TEXT
    return not isinstance(type_, sa.LargeBinary | sa.JSON)


def _check(column: sa.Column[Any]) -> Check:
    type_ = column.type
    check = _check_of_type(column, type_)
    if column.nullable or (isinstance(type_, sa.JSON) and not type_.none_as_null):

        def check_unless_null(value: Any) -> None:
            if value is not None:
                check(value)

        return check_unless_null
    return check


def _check_of_type(column: sa.Column[Any], type_: Any) -> Check:
    match type_:
        case sa.JSON():
            return _check_json
        case sa.Boolean():
            return _of(bool)
        case sa.Integer():
            bits = next(bits for kind, bits in _BITS if isinstance(type_, kind))
            return _integer(bits)
        case sa.Float():
            is_single = isinstance(type_, sa.REAL) or (type_.precision is not None and type_.precision <= 24)
            return _check_single_precision if is_single else _check_float
        case sa.Numeric():
            return _decimal(type_.precision, type_.scale)
        case sa.LargeBinary():
            return _of(bytes)
        case sa.DateTime():
            return _of(datetime.datetime)
        case sa.String() if not isinstance(type_, sa.Enum):
            return _text(type_.length)
        case _:
            raise ValueError(f"{column} has the type {type_!r}, of which it is not known what it takes")


def _of(kind: type) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, kind):
            raise ValueError(_missing_or(value, f"is no {kind.__name__}"))

    return check


def _missing_or(value: Any, rule: str) -> str:
    return "is missing" if value is None else rule


def _text(length: int | None) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, str):
            raise ValueError(_missing_or(value, "is no text"))
        if length is not None and len(value) > length:
            raise ValueError(f"must have at most {length} characters")
        if "\0" in value:
            raise ValueError("must not have the character NUL")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("must not have half of a surrogate pair") from None

    return check


def _integer(bits: int) -> Check:
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1

    def check(value: Any) -> None:
        if not isinstance(value, int):
            raise ValueError(_missing_or(value, "is no integer"))
        if not least <= value <= most:
            raise ValueError(f"must be from {least} to {most}")

    return check


def _check_float(value: Any) -> None:
    if not isinstance(value, float | int | Decimal):
        raise ValueError(_missing_or(value, "is no number"))
    if math.isnan(value):  # SQLite makes NULL of it
        raise ValueError("must be a number, and not NaN")


def _check_single_precision(value: Any) -> None:
    _check_float(value)
    if struct.unpack("f", struct.pack("f", value))[0] != value:
        raise ValueError("must be a number of single precision")


def _decimal(precision: int | None, scale: int | None) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, float | int | Decimal):
            raise ValueError(_missing_or(value, "is no number"))
        if not math.isfinite(value):
            raise ValueError("must be a finite number")
        if precision is not None:
            digits = scale or 0
            if round(value, digits) != value or abs(value) >= 10 ** (precision - digits):
                raise ValueError(f"must have at most {precision} digits, {digits} of them after the point")

    return check


def _check_json(value: Any) -> None:
    if value is None:
        raise ValueError("is missing")
    if value:
        _to_json(value)
