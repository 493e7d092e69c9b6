"""What callers may do who prove who they are by a client certificate: a TOML file.

[grants]
"spiffe://example.com/accounts" = ["users.read", "users.write"]
"reports.example.com" = ["users.read"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping

Grants = Mapping[str, frozenset[str]]
"""Scopes by the name of a certificate."""


def parse_grants(data: bytes) -> Grants:
    """Raises ValueError where it is no TOML of the form above."""
    table = tomllib.loads(data.decode())
    grants = table.pop("grants", None)
    if not isinstance(grants, dict) or table:
        raise ValueError("it must have one table, [grants]")
    for name, scopes in grants.items():
        if not isinstance(scopes, list) or not all(isinstance(scope, str) and scope for scope in scopes):
            raise ValueError(f'the grants of {name} must be a list of scopes, such as ["users.read"]')
    return {name: frozenset(scopes) for name, scopes in grants.items()}


def certificate_name(auth_context: Mapping[str, Iterable[bytes]]) -> str | None:
    """The name in the client's certificate, which gRPC has verified: its SPIFFE ID, else its first DNS name. None where
    there is no certificate, or it has no such name. `auth_context` is that of grpcio's ServicerContext.

    A SPIFFE ID is a certificate's only URI (https://spiffe.io/docs/latest/spiffe-specs/x509-svid/), and so gRPC has it.
    """
    for kind in ("peer_spiffe_id", "peer_dns"):
        for name in auth_context.get(kind, ()):
            return name.decode(errors="replace")
    return None
