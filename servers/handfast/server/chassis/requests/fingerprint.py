"""Tells one request from another without keeping it."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Serializable(Protocol):
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


def fingerprint(method: str, request: Serializable) -> bytes:
    """32 bytes that are equal for the same method and request, and for no others."""
    return hashlib.sha256(method.encode() + b"\0" + request.SerializeToString(deterministic=True)).digest()
