"""What callers may do who prove who they are by a client certificate: a TOML file.

[grants]
"spiffe://example.com/accounts" = ["users.read", "users.write"]
"reports.example.com" = ["users.read"]
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping

import structlog

from handfast.server.chassis.security.holder import is_certificate_name
from handfast.server.chassis.security.permission import SELF, SERVER
from handfast.server.process.settings import SCOPE

_ALMOST = 0.88
"""How alike two scopes are, of 1, where one is the other with a slip: `user.read` and `users.read` are 0.95."""

_log = structlog.get_logger()

Grants = Mapping[str, frozenset[str]]
"""Scopes by the name of a certificate."""


def parse_grants(data: bytes, known: Collection[str] = ()) -> Grants:
    """Raises ValueError where it is no TOML of the form above.

    `known` are scopes that this server looks for. Others may be for other servers, which share the file; one that is
    like a known one but for a slip is logged.
    """
    try:
        table = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    grants = table.pop("grants", None)
    if not isinstance(grants, dict) or table:
        raise ValueError("it must have one table, [grants]")
    for name, scopes in grants.items():
        if not is_certificate_name(name):
            raise ValueError(f"it grants to {name!r}, which is neither a SPIFFE ID nor a DNS name without a wildcard")
        if not isinstance(scopes, list) or not all(isinstance(scope, str) and scope for scope in scopes):
            rule = f'"{name}" = ["users.read"], with the name in quotes'
            raise ValueError(f"the grants of {name} must be a list of scopes, such as {rule}")
        for scope in scopes:
            if not SCOPE.fullmatch(scope):
                raise ValueError(f"the grants of {name} have {scope!r}, which is no scope; each is a text of its own")
            if SERVER in scope:
                raise ValueError(f"the grants of {name} have {scope!r}; say the name of a server in place of {SERVER}")
            if scope == SELF:
                raise ValueError(f"the grants of {name} have {SELF!r}, which is for tokens: a certificate owns nothing")
            if scope not in known and (meant := difflib.get_close_matches(scope, known, 1, _ALMOST)):
                _log.warning("a grant may be misspelt", certificate=name, scope=scope, meant=meant[0])
    return {name: frozenset(scopes) for name, scopes in grants.items()}
