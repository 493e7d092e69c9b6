"""Makes a repeat of a write harmless (AIP-155): the reply to a `request_id` is stored in the local transaction of the
write.

Request ids are kept apart by method, and by caller as `answers.py` says. Only successes are stored, so that a write
that was refused can be sent again. Where a resource goes for good, the replies about it are erased in the same local
transaction; of each is left that the call was carried out, so that a repeat does nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message

from handfast.server.chassis.cancellation import shield
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, Clock, now
from handfast.server.chassis.data.answers import Answers
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.distribution import Reason, across_keys, spread_by
from handfast.server.chassis.data.personal_data import without_personal_data
from handfast.server.chassis.data.statements import Statement
from handfast.server.chassis.errors import AnswerErased, RequestIdReused

Reply = TypeVar("Reply", bound=Message)

KEPT_US = 24 * 3600 * MICROSECONDS_PER_SECOND
"""How long a reply is kept."""
ABOUT_LENGTH = 200


class Done(NamedTuple, Generic[Reply]):
    """What a write has come to. `about` names the resource whose data the reply has, if it has that of one: with it the
    reply is erased. `erases` are those that go for good with this write; what is stored of its own reply has no
    personal data then.
    """

    reply: Reply
    about: str | None = None
    erases: Collection[str] = ()


class Serializable(Protocol):
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


class Identified(Serializable, Protocol):
    """A request with a `request_id`."""

    request_id: str


def request_id_of(request: Serializable) -> str:
    """Empty where it has none, or no such field."""
    request_id: str = getattr(request, "request_id", "")
    return request_id


def fingerprint(method: str, request: Serializable) -> bytes:
    """A hash by which a request that comes again is recognized without being kept: 32 bytes that are equal for the same
    method and request, and for no others."""
    return hashlib.sha256(method.encode() + b"\0" + request.SerializeToString(deterministic=True)).digest()


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
        sa.Column("about", sa.String(ABOUT_LENGTH), index=True),
        sa.Column("is_erased", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
        info=spread_by("request_id"),
    )


class IdempotencyStore:
    """The replies that one database keeps."""

    def __init__(self, database: Database, table: sa.Table, clock: Clock = now) -> None:
        self._database, self._clock = database, clock
        columns = table.c
        self._answers = Answers(database, table)
        erase = sa.update(table).where(columns.about == sa.bindparam("about_")).values(is_erased=True, reply=b"")
        self._erase = Statement(database, across_keys(Reason.ERASURE, erase))

    def once(
        self, method: str, request: Serializable, reply_type: type[Reply], work: Callable[[sa.Connection], Done[Reply]]
    ) -> Reply:
        """Does `work` in a local transaction, or replies as to the request's first call. Raises RequestIdReused where
        that was another request, AnswerErased where the reply is gone, and what `Database.write` raises. Without a
        request id it just does the work, and erases what that erases.
        """
        request_id = request_id_of(request)
        if not request_id:
            return self._database.write(partial(self._work, work)).reply
        digest = fingerprint(method, request)
        identity = {"method": method, "request_id": request_id, "fingerprint": digest}
        try:
            return self._database.write(partial(self._work_and_insert, work, identity))
        except Exception:
            # Looked up only now, as repeats are rare. What stands in the way of a repeat can be the very change that
            # the first call made, so that call's reply comes before it.
            with shield(), self._database.read_durable() as connection:
                stored = self._answers.find(connection, method, request_id)
            if stored is None:
                raise
            if stored.fingerprint != digest:
                raise RequestIdReused(request_id) from None
            if stored.is_erased:
                raise AnswerErased(request_id) from None
            return reply_type.FromString(stored.reply)

    def erase(self, connection: sa.Connection, about: Collection[str]) -> None:
        """Erases, in a local transaction, all replies about these resources."""
        self._erase.send_each(connection, [{"about_": each} for each in sorted(about)])

    def prune(self, going_on: Callable[[], bool] = lambda: True) -> None:
        """Forgets replies whose time is up. Ends early where `going_on` says so."""
        self._answers.forget(self._clock() - KEPT_US, going_on)

    def _work(self, work: Callable[[sa.Connection], Done[Reply]], connection: sa.Connection) -> Done[Reply]:
        done = work(connection)
        self.erase(connection, done.erases)
        return done

    def _work_and_insert(
        self, work: Callable[[sa.Connection], Done[Reply]], row: dict[str, Any], connection: sa.Connection
    ) -> Reply:
        """Fails where another call with the same request id was first: then this one is rolled back."""
        reply, about, erases = self._work(work, connection)
        stored = (without_personal_data(reply) if erases else reply).SerializeToString()
        self._answers.insert(connection, **row, reply=stored, create_time=self._clock(), about=about, is_erased=False)
        return reply
