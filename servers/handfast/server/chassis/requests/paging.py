"""Pages of a list (AIP-158): sizes, tokens that say where to go on, and where a page ends."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import TypeVar

from google.protobuf.message import Message

from handfast.server.chassis.errors import Violations
from handfast.server.chassis.requests.reply_room import PIECE, ReplyRoom

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

Entry = TypeVar("Entry", bound=Message)


def page_size(violations: Violations, asked: int) -> int:
    """How many to return; a number beyond the largest means the largest."""
    if asked < 0:
        violations.add("page_size", "must not be negative")
    return min(asked, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def page_token(of: str, after: str) -> str:
    """Goes on after `after` in the list `of`; empty where `after` is. `of` names the list and its filter."""
    return base64.urlsafe_b64encode(f"{of}\n{after}".encode()).decode() if after else ""


def page_start(violations: Violations, token: str, of: str) -> str:
    """Where `token` says to go on: empty for the first page."""
    if not token:
        return ""
    try:
        found_of, _, after = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition("\n")
        well_formed = found_of == of and after != "" and after.isprintable()  # PostgreSQL takes no NUL
    except ValueError:  # neither base64 nor UTF-8
        well_formed = False
    if not well_formed:
        violations.add("page_token", "must be next_page_token of an answer to the same request")
        return ""
    return after


def read_page(
    read: Callable[[str, int], tuple[Iterable[tuple[str, Entry | None]], bool]], after: str, limit: int
) -> tuple[list[Entry], str]:
    """The entries of the `limit` keys that follow `after`, or of as many as fit into a reply, one at least; and the key
    to go on after, empty at the end.

    `read(after, count)` returns the next keys in their order, up to `count`, each with its entry (None where it has
    none to show), and whether there are more.
    """
    entries: list[Entry] = []
    room = ReplyRoom()
    while limit:
        count = min(limit, PIECE)
        piece, more = read(after, count)
        for key, entry in piece:
            if entry is not None:
                if not room.take(entry) and entries:
                    return entries, after
                entries.append(entry)
            after = key
        if not more:
            return entries, ""
        limit -= count
    return entries, after
