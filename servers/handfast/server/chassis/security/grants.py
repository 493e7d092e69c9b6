"""What callers may do who prove who they are by a client certificate: a TOML file.

[grants]
"spiffe://example.com/accounts" = ["users.read", "users.write"]
"reports.example.com" = ["users.read"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

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
