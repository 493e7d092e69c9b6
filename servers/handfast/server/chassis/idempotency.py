"""Makes a repeat of a write harmless (AIP-155): the answer of a `request_id` is stored in the local transaction of
the write.

Request ids are kept apart by caller and method. Only successes are stored, so that a write that was refused can be
sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message

from handfast.server.chassis.call import check_deadline
from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.database import Database
from handfast.server.chassis.errors import RequestIdReused
from handfast.server.chassis.fingerprint import fingerprint

Reply = TypeVar("Reply", bound=Message)

ANYBODY = ""  # the caller, where calls carry no identity


class Identified(Protocol):
    """A request with a `request_id`."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


class _StoredMeanwhile(Exception):
    """Another call with the same request id committed first."""


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


class Requests:
    """The answers that one database keeps."""

    def __init__(self, database: Database, table: sa.Table, clock: Clock = now) -> None:
        self._database, self._table, self._clock = database, table, clock

    def once(
        self, method: str, request: Identified, reply_type: type[Reply], work: Callable[[sa.Connection], Reply]
    ) -> Reply:
        """Does `work` in a local transaction, or answers as the request's first call was answered. Raises
        RequestIdReused where that was another request. Without a request id it just does the work.
        """

        def in_time(connection: sa.Connection) -> Reply:
            reply = work(connection)
            check_deadline()
            return reply

        if not request.request_id:
            return self._database.write(in_time)
        digest = fingerprint(method, request)

        def transaction(connection: sa.Connection) -> Reply:
            stored = self._find(connection, method, request.request_id)
            if stored is None:
                reply = in_time(connection)
                self._store(connection, method, request.request_id, digest, reply)
                return reply
            if stored.fingerprint != digest:
                raise RequestIdReused(
                    f"request_id {request.request_id} was used for another request.", request_id=request.request_id
                )
            return reply_type.FromString(stored.reply)

        while True:
            try:
                return self._database.write(transaction)
            except _StoredMeanwhile:
                continue

    def _find(self, connection: sa.Connection, method: str, request_id: str) -> sa.Row[Any, Any] | None:
        t = self._table.c
        query = sa.select(t.fingerprint, t.reply)
        return connection.execute(
            query.where(t.caller == ANYBODY, t.method == method, t.request_id == request_id)
        ).one_or_none()

    def _store(self, connection: sa.Connection, method: str, request_id: str, digest: bytes, reply: Message) -> None:
        values = {
            "caller": ANYBODY,
            "method": method,
            "request_id": request_id,
            "fingerprint": digest,
            "reply": reply.SerializeToString(),
            "create_time": self._clock(),
        }
        if connection.execute(self._database.insert_new(self._table), values).rowcount == 0:
            raise _StoredMeanwhile
