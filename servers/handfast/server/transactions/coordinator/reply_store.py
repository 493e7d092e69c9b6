"""The replies of account calls, kept for repeats of a request id (AIP-155).

A reply is inserted with the decision. So of two calls with the same request id one inserts its own; both give that one.
Final failures are kept too: else a repeat that was delayed could commit what the caller was told had failed. A failure
that says when to call again is not kept, as calling again with the same request id is what it asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.answers import Answers
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.idempotency import KEPT_US


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
        self._answers = Answers(database, table)

    def find(self, method: str, request_id: str) -> StoredReply | None:
        """What the call was answered that the call being served repeats, or asks for."""
        with self._database.read_durable() as connection:
            row = self._answers.find(connection, method, request_id)
        if row is None:
            return None
        return StoredReply(method, request_id, row.fingerprint, row.transaction_id, row.reply, row.failure)

    def insert(self, connection: sa.Connection, answer: StoredReply) -> None:
        """Inserts an answer, in the round trip of the next statement. From there comes an IntegrityError, where the
        request id has an answer of an earlier call."""
        self._answers.insert(
            connection,
            method=answer.method,
            request_id=answer.request_id,
            fingerprint=answer.fingerprint,
            transaction_id=answer.transaction_id,
            reply=answer.reply,
            failure=answer.failure,
            create_time=self._clock(),
        )

    def prune(self, going_on: Callable[[], bool] = lambda: True) -> None:
        """Forgets replies whose time is up. Ends early where `going_on` says so."""
        self._answers.forget(self._clock() - KEPT_US, going_on)
