"""Tokens that count no more: a file with the id (`jti`) of one on each line."""

from __future__ import annotations


def parse_revoked(data: bytes) -> frozenset[str]:
    """Empty lines and those that begin with `#` are left out. Raises ValueError where it is no UTF-8."""
    lines = (line.strip() for line in data.decode("utf-8-sig").splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))
