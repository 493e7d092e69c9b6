"""Under which name a server keeps what belongs to a caller: transactions, request ids, quotas."""

from __future__ import annotations

import hashlib
import re

from handfast.client.propagation import CALLER_KEY
from handfast.server.chassis.call import Call, serving
from handfast.server.chassis.security.identity import Identity

FORWARD = "callers.forward"
"""The scope of those who may say for whom they call."""

_DIGEST = re.compile(r"[0-9a-f]{32}")


def caller_of(call: Call, identity: Identity) -> str:
    """The name of the caller: the digest of its identity; where another service calls on behalf of somebody, and may
    say so, one that stands for both. So nobody gets at what the service keeps for its callers by naming them, nor do
    they by themselves. It is no identity: it grants nothing.
    """
    behalf = call.metadata.get(CALLER_KEY)
    if behalf is None or FORWARD not in identity.scopes or not is_caller(behalf):
        return identity.digest
    call.log["on_behalf_of"] = behalf
    return on_behalf_of(str(behalf), identity.digest)


def current_caller() -> str | None:
    """The name of who has made the call being served; None outside of calls, and where calls carry no identity."""
    call = serving()
    return None if call is None else call.caller


def current_scopes() -> frozenset[str]:
    """What the caller of the call being served may do; nothing where calls carry no identity."""
    call = serving()
    return frozenset() if call is None or call.identity is None else call.identity.scopes


def on_behalf_of(caller: str, service: str = "") -> str:
    """The name under which a service does something for a caller. Without `service` it is this server itself, which
    tells nobody.
    """
    return hashlib.sha256(f"suite\0{service}\0{caller}".encode()).hexdigest()[:32]


def is_caller(name: object) -> bool:
    """Whether this can be such a name."""
    return isinstance(name, str) and _DIGEST.fullmatch(name) is not None
