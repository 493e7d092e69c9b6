"""A hash of a request, by which a request that comes again is recognized without being kept."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Serializable(Protocol):
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


def fingerprint(method: str, request: Serializable) -> bytes:
    """32 bytes that are equal for the same method and request, and for no others."""
    return hashlib.sha256(method.encode() + b"\0" + request.SerializeToString(deterministic=True)).digest()
