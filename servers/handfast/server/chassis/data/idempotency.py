"""Makes a repeat of a write harmless (AIP-155): the answer of a `request_id` is stored in the local transaction of
the write.

Request ids are kept apart by caller and method. Only successes are stored, so that a write that was refused can be
sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message

from handfast.server.chassis.cancellation import shield
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.statements import Statement
from handfast.server.chassis.errors import DatabaseConflict, RequestIdReused
from handfast.server.chassis.requests.fingerprint import fingerprint

Reply = TypeVar("Reply", bound=Message)

KEPT = 24 * 3600 * MICROSECONDS_PER_SECOND
"""How long an answer is kept."""
ANYBODY = ""  # the caller, where calls carry no identity


class Identified(Protocol):
    """A request with a `request_id`."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


class _AnsweredBefore(DatabaseConflict):
    """Another call with the same request id was answered first, so this one is rolled back."""


def define(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "requests",
        metadata,
        sa.Column("caller", sa.String(200), primary_key=True),
        sa.Column("method", sa.String(200), primary_key=True),
        sa.Column("request_id", sa.String(36), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("reply", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False, index=True),
    )


class IdempotencyStore:
    """The answers that one database keeps."""

    def __init__(self, database: Database, table: sa.Table, clock: Clock = now) -> None:
        self._database, self._clock = database, clock
        columns = table.c
        self._insert = Statement(database, database.insert_new(table))
        self._find = Statement(
            database,
            sa.select(columns.fingerprint, columns.reply).where(
                columns.caller == sa.bindparam("caller"),
                columns.method == sa.bindparam("method"),
                columns.request_id == sa.bindparam("request_id"),
            ),
        )
        self._delete = Statement(database, sa.delete(table).where(columns.create_time < sa.bindparam("before")))

    def once(
        self, method: str, request: Identified, reply_type: type[Reply], work: Callable[[sa.Connection], Reply]
    ) -> Reply:
        """Does `work` in a local transaction, or answers as the request's first call was answered. Raises
        RequestIdReused where that was another request. Without a request id it just does the work.
        """
        if not request.request_id:
            return self._database.write(work)
        identity = {"caller": ANYBODY, "method": method, "request_id": request.request_id}
        digest = fingerprint(method, request)
        try:
            return self._database.write(partial(self._answer, work, {**identity, "fingerprint": digest}))
        except Exception:
            # Looked up only now, as repeats are rare. What stands in the way of a repeat can be the very change that
            # the first call made, so that call's answer comes before it.
            with shield(), self._database.read() as connection:
                stored = self._find.first(connection, **identity)
            if stored is None:
                raise
            if stored.fingerprint != digest:
                raise RequestIdReused(request.request_id) from None
            return reply_type.FromString(stored.reply)

    def _answer(
        self, work: Callable[[sa.Connection], Reply], answer: Mapping[str, Any], connection: sa.Connection
    ) -> Reply:
        """Does the work and stores its reply, in one local transaction."""
        reply = work(connection)
        stored = {**answer, "reply": reply.SerializeToString(), "create_time": self._clock()}
        if self._insert.run(connection, **stored) == 0:
            raise _AnsweredBefore(f"request_id {answer['request_id']} is being answered; ask again.")
        return reply

    def prune(self) -> None:
        """Forgets answers whose time is up."""
        self._database.write(partial(self._delete.run, before=self._clock() - KEPT))
