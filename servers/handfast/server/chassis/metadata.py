"""Metadata that a handler sends: what gRPC can send (https://grpc.io/docs/guides/metadata/), and how much of it.

gRPC clients take 8 KiB of metadata by default, and lose a reply or an error that comes with more. Of an entry that gRPC
cannot send the caller would hear nothing, or that some metadata is invalid.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from handfast.server.chassis.errors import ResponseTooLarge

LIMIT = 7 * 1024
"""Bytes of metadata that an error or a reply has at most, counted as HTTP/2 does (RFC 9113, 6.5.2). The rest of the
8 KiB is for what gRPC and proxies add."""

ENTRY_BYTES = 32
"""Bytes that HTTP/2 counts for each entry beside its key and value."""

# gRPC's core aborts the process of a server that sends `grpc-timeout`, which is for callers.
_KEY = re.compile(r"(?!grpc-timeout$)[0-9a-z_.-]+")
_TEXT = re.compile(rb"[ -~]*")

Entry = tuple[str, str | bytes]


def check_metadata(kind: str, entries: Any) -> None:
    """For what a handler sends beside its reply, of the `kind` trailing or initial. Raises ValueError where an entry
    cannot be sent, and ResponseTooLarge where they have more bytes than LIMIT."""
    if not isinstance(entries, Collection):
        raise ValueError(f"{kind} metadata: a {type(entries).__name__} is no list of entries")
    for entry in entries:
        if not is_sendable(entry):
            key = entry[0] if isinstance(entry, tuple | list) and entry else type(entry).__name__
            raise ValueError(f"{kind} metadata: {key!r} has no key and value that gRPC can send")
    if (size := metadata_bytes(entries)) > LIMIT:
        raise ResponseTooLarge(
            f"The {kind} metadata would have {size} bytes; up to {LIMIT} are sent.", size=size, limit=LIMIT
        )


def those_that_fit(entries: Any, room: int) -> Sequence[Entry]:
    """Those of `entries` that can be sent and fit into `room` bytes: those that gRPC reads first, then short ones."""
    kept = []
    sendable = filter(is_sendable, entries if isinstance(entries, Collection) else ())
    for entry in sorted(sendable, key=lambda each: (not each[0].startswith("grpc-"), metadata_bytes([each]))):
        room -= metadata_bytes([entry])
        if room >= 0:
            kept.append(entry)
    return kept


def is_sendable(entry: Any) -> bool:
    """Whether gRPC can send what a handler gave as an entry of metadata."""
    match entry:
        case (str(key), str(value) | bytes(value)) if _KEY.fullmatch(key):
            if key.endswith("-bin"):
                return isinstance(value, bytes) or value.isascii()
            return _TEXT.fullmatch(value if isinstance(value, bytes) else value.encode(errors="replace")) is not None
    return False


def metadata_bytes(entries: Iterable[Entry]) -> int:
    """Bytes of entries that can be sent. Binary ones are sent as base64."""
    return sum(
        ENTRY_BYTES + len(key) + (base64_bytes(len(value)) if key.endswith("-bin") else len(value))
        for key, value in entries
    )


def base64_bytes(size: int) -> int:
    """How many characters `size` bytes have as base64 without padding."""
    return -(-size * 4 // 3)
