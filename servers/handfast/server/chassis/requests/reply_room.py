"""How many entries fit into one reply. They are counted while they are read, so that a server never reads far more rows
than it can send.
"""

from __future__ import annotations

from google.protobuf.message import Message

from handfast.server.chassis.errors import ResponseTooLarge
from handfast.server.chassis.pipeline.layer import DEFAULT_MESSAGE_LIMIT

PIECE = 100
"""Rows to read at once: few enough that large ones do not fill the memory, many enough that small ones cost no more
time than all in one statement."""

_OTHER_FIELDS = 128 * 1024  # bytes of a reply that its entries leave free: for a page token, or ids that are missing
_AROUND_ENTRY = 6  # bytes that an entry takes beside its content, at most: a tag of one, and its length


class ReplyRoom:
    """The bytes that are left for the entries of one reply, of which `limit` bytes can be sent."""

    def __init__(self, limit: int = DEFAULT_MESSAGE_LIMIT) -> None:
        self._limit = limit
        self._left = limit - _OTHER_FIELDS

    def take(self, entry: Message) -> bool:
        """Takes the room that the entry needs. Returns whether it was there."""
        self._left -= entry.ByteSize() + _AROUND_ENTRY
        return self._left >= 0

    def require(self, entry: Message) -> None:
        """Takes the room that the entry needs. Raises ResponseTooLarge where it is not there."""
        if not self.take(entry):
            raise ResponseTooLarge(
                f"The reply would have more than the {self._limit} bytes that are sent. Ask for less at a time.",
                limit=self._limit,
            )
