"""The ids of transactions, which say whose they are (`owner_tags.py`). Where calls carry no identity, they have random
bits instead, and anybody may use them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import sqlalchemy as sa

from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.ids import Ids, new_id
from handfast.server.transactions.owner_tags import TAG_BITS, OwnerTags

KEY_BYTES = 32


class OwnedIds:
    """Mints ids for owners, and tells whose they are. An owner is a text, None where it is not known."""

    def __init__(self, key: bytes, clock: Clock = now) -> None:
        self._tags = OwnerTags([key])
        self._ids = Ids(clock, free_bits=TAG_BITS)

    @property
    def keys(self) -> Sequence[bytes]:
        """Those by which participants tell whose an id is."""
        return self._tags.keys

    def mint(self, owner: str | None) -> str:
        return new_id() if owner is None else self._tags.tagged(self._ids.mint(), owner)

    def belongs_to(self, transaction_id: str, *owners: str) -> bool:
        """Whether one of these owns the transaction."""
        return self._tags.belongs_to(transaction_id, *owners)


def load_key(database: Database, table: sa.Table) -> bytes:
    """The key of all replicas, which the first that starts makes."""

    def load(connection: sa.Connection) -> bytes:
        connection.execute(database.insert_new(table), {"id": 1, "key": secrets.token_bytes(KEY_BYTES)})
        # Locked, so that it is used only once it is durable.
        find = sa.select(table.c.key).with_for_update(read=True, key_share=True)
        key: bytes = connection.execute(find).scalar_one()
        return key

    return database.write(load)
