"""The last digits of a transaction's id, which say whose it is.

They are a keyed hash (HMAC, RFC 2104) of the other digits and of the owner. So who owns a transaction is known for as
long as its id is, though beginning one stores nothing. Whoever sees the id, which others are told with PENDING_CHANGE,
cannot use it. By chance it counts as theirs once in four billion ids, and they cannot look for one that does, as only
the coordinator and participants have the key.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

TAG_BITS = 32

_DIGITS = TAG_BITS // 4


class OwnerTags:
    """By these keys: ids are tagged with the first one, and may have been with any. An owner is a text."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = keys

    def tagged(self, transaction_id: str, owner: str) -> str:
        """The id with the tag of its owner for its last digits."""
        id_ = transaction_id[:-_DIGITS]
        return id_ + _tag(self.keys[0], id_, owner)

    def belongs_to(self, transaction_id: str, *owners: str) -> bool:
        """Whether one of these owns the transaction."""
        id_, tag = transaction_id[:-_DIGITS], transaction_id[-_DIGITS:]
        return any(hmac.compare_digest(_tag(key, id_, owner), tag) for key in self.keys for owner in owners)


def _tag(key: bytes, id_: str, owner: str) -> str:
    return hmac.digest(key, f"{id_}\0{owner}".encode(), "sha256").hex()[:_DIGITS]
