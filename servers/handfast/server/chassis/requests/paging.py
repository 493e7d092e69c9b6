"""Lists: pages (AIP-158), and how much of a list fits into one reply."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from handfast.server.chassis.errors import ResponseTooLarge, Violations
from handfast.server.chassis.pipeline.layer import DEFAULT_MESSAGE_LIMIT
from handfast.server.chassis.requests.fields import CONTROL_CHARACTER

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
PIECE = 100
"""Rows to read at once: few enough that large ones do not fill the memory, many enough that small ones cost no more
time than all in one statement."""
MAX_SKIPPED = 1000
"""Keys without an entry that one call passes over, before it answers with what it has."""

_OTHER_FIELDS = 128 * 1024  # bytes of a reply that its entries leave free: for a page token, or ids that are missing
_AROUND_ENTRY = 6  # bytes that an entry takes beside its content, at most: a tag of one, and its length

Entry = TypeVar("Entry", bound=Message)


class ListRequest(Protocol):
    """A request for a page, as AIP-158 has it."""

    page_size: int
    page_token: str


def check_page(violations: Violations, request: ListRequest, of: str) -> tuple[str, int]:
    """Which page of the list `of` is asked for; `of` names the list and its filter. Returns the key after which the
    page begins, empty for the first one, and how many entries it has: DEFAULT_PAGE_SIZE where the request says 0,
    MAX_PAGE_SIZE at most.
    """
    if request.page_size < 0:
        violations.add("page_size", "must not be negative")
    after = _key_in(request.page_token, of)
    if request.page_token and not after:
        violations.add("page_token", "must be next_page_token of an answer to the same request")
    return after, min(request.page_size, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def require_page(request: ListRequest, of: str) -> tuple[str, int]:
    """`check_page` for a request that has nothing else to check: raises InvalidFields."""
    with Violations.collect() as violations:
        return check_page(violations, request, of)


def page_token(of: str, after: str) -> str:
    """A token for the page of the list `of` that follows the key `after`. Empty where `after` is: then there is no such
    page.
    """
    return base64.urlsafe_b64encode(f"{of}\n{after}".encode()).decode() if after else ""


def _key_in(token: str, of: str) -> str:
    """The key that a token of the list `of` stands for; empty where it is no such token."""
    try:
        found_of, _, after = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition("\n")
    except ValueError:  # neither base64 nor UTF-8
        return ""
    return after if found_of == of and not CONTROL_CHARACTER.search(after) else ""


class ReplyRoom:
    """The bytes that are left for the entries of one reply. Entries are counted
    while they are read, so that a server never reads far more rows than it can send.
    """

    def __init__(self) -> None:
        self._left = DEFAULT_MESSAGE_LIMIT - _OTHER_FIELDS

    def take(self, entry: Message) -> bool:
        """Takes the room that the entry needs. Returns whether it was there."""
        self._left -= entry.ByteSize() + _AROUND_ENTRY
        return self._left >= 0

    def require(self, entry: Message) -> None:
        """Takes the room that the entry needs. Raises ResponseTooLarge where it is not there."""
        if not self.take(entry):
            limit = DEFAULT_MESSAGE_LIMIT
            raise ResponseTooLarge(
                f"The reply would have more than the {limit} bytes that are sent. Ask for less at a time.", limit=limit
            )


def read_page(
    read: Callable[[str, int], tuple[Iterable[tuple[str, Entry | None]], bool]], after: str, limit: int
) -> tuple[list[Entry], str]:
    """Reads a page. Returns the `limit` entries that follow `after`, or as many as fit into one reply, but at least
    one; and the key after which the next page begins, empty where this is the last page. Where MAX_SKIPPED keys had no
    entry, there can be fewer, or none, though others follow (AIP-158).

    `read(after, count)` returns up to `count` of the next keys in their order, each with its entry, or with None where
    there is nothing to show for it; and whether more keys follow.
    """
    entries: list[Entry] = []
    room = ReplyRoom()
    skipped, count = 0, min(limit, PIECE)
    while True:
        piece, more = read(after, count)
        shown = len(entries)
        for key, entry in piece:
            if entry is None:
                skipped += 1
            elif len(entries) < limit and (room.take(entry) or not entries):
                entries.append(entry)
            else:
                return entries, after
            after = key
        if not more:
            return entries, ""
        if len(entries) == limit or skipped >= MAX_SKIPPED:
            return entries, after
        count = PIECE if len(entries) == shown else min(limit - len(entries), PIECE)
