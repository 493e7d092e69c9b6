"""Pages of a list (AIP-158): how large a page is, where it begins, and where it ends."""

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
    """How many entries to return where the request asks for `asked`: DEFAULT_PAGE_SIZE for 0, MAX_PAGE_SIZE at most."""
    if asked < 0:
        violations.add("page_size", "must not be negative")
    return min(asked, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def page_token(of: str, after: str) -> str:
    """A token for the page that follows the key `after` in the list `of`, which names the list and its filter. Empty
    where `after` is empty: then there is no such page.
    """
    return base64.urlsafe_b64encode(f"{of}\n{after}".encode()).decode() if after else ""


def page_start(violations: Violations, token: str, of: str) -> str:
    """The key after which the page begins that `token` stands for; empty for the first page."""
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
    """Reads a page. Returns the entries of the `limit` keys that follow `after`, or of as many as fit into one reply,
    but at least one; and the key after which the next page begins, empty where this is the last page.

    `read(after, count)` returns up to `count` of the next keys in their order, each with its entry, or with None where
    there is nothing to show for it; and whether more keys follow.
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
