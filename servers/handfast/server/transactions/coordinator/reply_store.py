"""The answers of account calls, kept for repeats of a request id (AIP-155).

An answer is inserted with the decision, in one local transaction, before it goes out. Of two calls with the same
request id that run at the same time, one inserts first; the other aborts its own transaction and gives the first
one's answer. Final failures are kept too: else a repeat that was delayed could commit what the caller was told had
failed. A failure that says when to call again is not kept, as calling again with the same request id is what it asks
for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.idempotency import ANYBODY, KEPT


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

    @property
    def final(self) -> bool:
        """Whether it is kept."""
        return self.reply is not None or self.failure is not None


class ReplyStore:
    def __init__(self, database: Database, table: sa.Table, clock: Clock = now) -> None:
        self._database, self._clock = database, clock
        t = table.c
        self._insert = database.insert_new(table)
        self._select = sa.select(t.method, t.request_id, t.fingerprint, t.transaction_id, t.reply, t.failure).where(
            t.caller == sa.bindparam("caller"),
            t.method == sa.bindparam("method"),
            t.request_id == sa.bindparam("request_id"),
        )
        self._delete = sa.delete(table).where(t.create_time < sa.bindparam("before"))

    def find(self, method: str, request_id: str) -> StoredReply | None:
        with self._database.read() as connection:
            return self._find(connection, method, request_id)

    def insert(self, connection: sa.Connection, answer: StoredReply) -> StoredReply:
        """Inserts an answer where the request has none. Returns the one that stands."""
        values = {**asdict(answer), "caller": ANYBODY, "create_time": self._clock()}
        if connection.execute(self._insert, values).rowcount == 1:
            return answer
        standing = self.look(connection, answer)
        assert standing is not None, "it is what stood in the way"
        return standing

    def prune(self) -> None:
        """Forgets answers whose time is up."""
        before = {"before": self._clock() - KEPT}
        self._database.write(lambda connection: connection.execute(self._delete, before))

    def look(self, connection: sa.Connection, answer: StoredReply) -> StoredReply | None:
        """The answer that stands for the same request id."""
        return self._find(connection, answer.method, answer.request_id)

    def _find(self, connection: sa.Connection, method: str, request_id: str) -> StoredReply | None:
        identity = {"caller": ANYBODY, "method": method, "request_id": request_id}
        row = connection.execute(self._select, identity).one_or_none()
        return None if row is None else StoredReply(*row)
