"""Whose the answer of a call is that is kept for repeats: under whose name it is stored, and looked for.

It is kept under its caller, and then told to nobody else, only where the server refuses callers that it does not know.
Else it is kept for anybody who repeats the call. So a repeat is answered as the first call was, whatever happens
between them: authentication is turned on, step by step and in one replica after the other, or a token expires while it
is only observed.

| authentication | stored under             | a repeat finds what is stored under |
|----------------|--------------------------|-------------------------------------|
| off            | anybody                  | anybody                             |
| observe        | anybody, and the caller  | anybody, and the caller             |
| enforce        | the caller               | anybody, and the caller             |

Where a caller is observed the answer is stored twice, so that of a call and its repeat that are served at the same time
by two replicas, of which one enforces already, one comes second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import sqlalchemy as sa

from handfast.server.chassis.call import serving
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.distribution import Reason, across_keys
from handfast.server.chassis.data.statements import Row, Statement

FORGOTTEN_AT_ONCE = 10_000
"""With fewer, all would take longer: each part passes over what those before it have deleted, until it is vacuumed."""
ANYBODY = ""
"""The caller under whose name answers are kept for everybody."""


class Answers:
    """The rows of a table with the key `caller`, `method` and `request_id`, and a `create_time`. They belong to the
    caller of the call being served."""

    def __init__(self, database: Database, table: sa.Table) -> None:
        columns = table.c
        self._database = database
        self._insert = Statement(database, sa.insert(table))
        self._insert_unless_anybodys = Statement(database, _insert_unless_anybodys(table))
        found = sa.select(table).where(
            database.one_of(columns.caller, "callers"),
            columns.method == sa.bindparam("method"),
            columns.request_id == sa.bindparam("request_id"),
        )
        locked = found.order_by(columns.caller.desc()).with_for_update(read=True, key_share=True)
        self._find = Statement(database, locked)
        key = table.primary_key.columns
        old = sa.select(*key).where(columns.create_time < sa.bindparam("before")).limit(FORGOTTEN_AT_ONCE)
        # Those of another replica are left to it.
        delete = sa.delete(table).where(sa.tuple_(*key).in_(old.with_for_update(skip_locked=True)))
        self._forget = Statement(database, across_keys(Reason.MAINTENANCE, delete))

    def insert(self, connection: sa.Connection, **values: Any) -> None:
        """Inserts an answer, in the round trip of the next statement; `values` are all columns but `caller`. From there
        comes an IntegrityError where the call is a repeat."""
        call = serving()
        caller = None if call is None else call.caller
        if caller is None:
            self._insert.send(connection, caller=ANYBODY, **values)
        elif call is not None and call.enforced:
            self._insert_unless_anybodys.send(connection, caller=caller, **values)
        else:
            self._insert.send_each(connection, [{"caller": each, **values} for each in (ANYBODY, caller)])

    def find(self, connection: sa.Connection, method: str, request_id: str) -> Row | None:
        """The answer that a repeat gets; None where there is none. It may be told once it is durable, so it is found
        within `Database.read_durable`."""
        call = serving()
        callers = [ANYBODY] if call is None or call.caller is None else [ANYBODY, call.caller]
        return self._find.first(connection, callers=callers, method=method, request_id=request_id)

    def forget(self, before_us: int, going_on: Callable[[], bool] = lambda: True) -> None:
        """Forgets the answers of calls before this time, in microseconds since the epoch, some at a time: no local
        transaction lasts long. Ends early where `going_on` says so."""
        forgotten = FORGOTTEN_AT_ONCE
        while forgotten >= FORGOTTEN_AT_ONCE and going_on():
            forgotten = self._database.write(partial(self._forget.run, before=before_us))


def _insert_unless_anybodys(table: sa.Table) -> Any:
    """Inserts a row of a caller. Where there is one for anybody already, it tries to insert that once more, which fails
    as any repeat does: so this takes no statement, and no look at a number of rows, beside the insert itself.
    """
    given: dict[str, sa.ColumnElement[Any]] = {
        column.name: sa.cast(sa.bindparam(column.name, type_=column.type), column.type) for column in table.c
    }
    kept = table.alias()
    anybodys = sa.select(kept.c.caller).where(
        kept.c.caller == ANYBODY, kept.c.method == given["method"], kept.c.request_id == given["request_id"]
    )
    given["caller"] = sa.func.coalesce(anybodys.scalar_subquery(), given["caller"])
    return sa.insert(table).from_select(list(given), sa.select(*given.values()))
