"""The ids of transactions, which say to the coordinator whose they are.

The last 32 bits of an id are a tag: a keyed hash (HMAC, RFC 2104) of the other bits and of its owner. So who owns a
transaction is known for as long as its id is, though beginning one stores nothing. Whoever sees the id, which others
are told with PENDING_CHANGE, cannot use it. By chance it counts as theirs once in four billion ids, and only the
coordinator can tell them, as the key never leaves its database.

Where calls carry no identity, ids have random bits instead, and anybody may use them.
"""

from __future__ import annotations

import hmac
import secrets

import sqlalchemy as sa

from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.ids import Ids, new_id

TAG_BITS = 32
KEY_BYTES = 32

_TAG_DIGITS = TAG_BITS // 4


class OwnedIds:
    """Mints ids for owners, and tells whose they are. An owner is a text, None where it is not known."""

    def __init__(self, key: bytes, clock: Clock = now) -> None:
        self._key = key
        self._ids = Ids(clock, free_bits=TAG_BITS)

    def mint(self, owner: str | None) -> str:
        if owner is None:
            return new_id()
        id_ = self._ids.mint()[:-_TAG_DIGITS]
        return id_ + self._tag(id_, owner)

    def belongs_to(self, transaction_id: str, *owners: str) -> bool:
        """Whether one of these owns the transaction."""
        id_, tag = transaction_id[:-_TAG_DIGITS], transaction_id[-_TAG_DIGITS:]
        return any(hmac.compare_digest(self._tag(id_, owner), tag) for owner in owners)

    def _tag(self, id_: str, owner: str) -> str:
        return hmac.digest(self._key, f"{id_}\0{owner}".encode(), "sha256").hex()[:_TAG_DIGITS]


def load_key(database: Database, table: sa.Table) -> bytes:
    """The key of all replicas, which the first that starts makes."""

    def load(connection: sa.Connection) -> bytes:
        connection.execute(database.insert_new(table), {"id": 1, "key": secrets.token_bytes(KEY_BYTES)})
        key: bytes = connection.execute(sa.select(table.c.key)).scalar_one()
        return key

    return database.write(load)
