"""Who calls, as it is proven."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls, as a token or a client certificate proves it.

    digest    32 hexadecimal digits that stand for who it is, in logs and in what is kept for callers (`callers.py`). It
              says nothing about a person, and stays the same when a token or certificate is renewed
    subject   the subject of a token, which a resource may belong to; empty for a certificate
    scopes    what it may do, such as `users.read`
    name      the name of a certificate; empty for a token, whose subject may be a person
    """

    digest: str
    subject: str
    scopes: frozenset[str]
    name: str = ""

    @classmethod
    def of_token(cls, issuer: str, subject: str, scopes: Iterable[str]) -> Identity:
        """That of a token's `iss` and `sub` (RFC 7519)."""
        return cls(_digest("token", issuer, subject), subject, frozenset(scopes))

    @classmethod
    def of_certificate(cls, name: str, scopes: Iterable[str]) -> Identity:
        """That of a client certificate with this name: a SPIFFE ID, or a DNS name."""
        return cls(_digest("certificate", name), "", frozenset(scopes), name)


def _digest(kind: str, *parts: str) -> str:
    # The first part keeps a token from being taken for a certificate, whatever its issuer is called.
    return hashlib.sha256("\0".join((kind, *parts)).encode()).hexdigest()[:32]
