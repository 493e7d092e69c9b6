"""The replies of account calls, kept for repeats of a request id (AIP-155).

A reply is inserted with the decision. So of two calls with the same request id one inserts its own; both give that one.
Final failures are kept too: else a repeat that was delayed could commit what the caller was told had failed. A failure
that says when to call again is not kept, as calling again with the same request id is what it asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.idempotency import ANYBODY, KEPT_US
from handfast.server.chassis.data.statements import Statement
from handfast.server.chassis.security.callers import current_caller


@dataclass(frozen=True, slots=True)
class StoredReply:
    """What a call was answered: a serialized reply, or where that is None a serialized `google.rpc.Status`.
    `fingerprint` stands for the request, so that another one under the same id is told apart.
    """

    method: str
    request_id: str
    fingerprint: bytes
    transaction_id: str
    reply: bytes | None = None
    failure: bytes | None = None


class ReplyStore:
    def __init__(self, database: Database, table: sa.Table, clock: Clock = now) -> None:
        self._database, self._clock = database, clock
        t = table.c
        self._insert = Statement(database, sa.insert(table))
        identity = (t.caller, t.method, t.request_id)
        columns = (t.method, t.request_id, t.fingerprint, t.transaction_id, t.reply, t.failure)
        find = sa.select(*columns).where(*(column == sa.bindparam(column.name) for column in identity))
        self._select = Statement(database, find)
        self._delete = Statement(database, sa.delete(table).where(t.create_time < sa.bindparam("before")))

    def find(self, method: str, request_id: str) -> StoredReply | None:
        """What the caller of the call being served was answered."""
        with self._database.read() as connection:
            row = self._select.first(
                connection, caller=current_caller() or ANYBODY, method=method, request_id=request_id
            )
            return None if row is None else StoredReply(*row)

    def insert(self, connection: sa.Connection, answer: StoredReply) -> None:
        """Inserts an answer, in the round trip of the next statement. From there comes an IntegrityError, where the
        request id has an answer of an earlier call."""
        self._insert.send(
            connection,
            caller=current_caller() or ANYBODY,
            method=answer.method,
            request_id=answer.request_id,
            fingerprint=answer.fingerprint,
            transaction_id=answer.transaction_id,
            reply=answer.reply,
            failure=answer.failure,
            create_time=self._clock(),
        )

    def prune(self) -> None:
        """Forgets replies whose time is up."""
        self._database.write(partial(self._delete.run, before=self._clock() - KEPT_US))
