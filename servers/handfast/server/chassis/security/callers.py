"""The name of a caller, under which a server keeps what belongs to it: transactions, stored answers, quotas.

It is the digest of the identity, or a digest of both where a service calls on behalf of another caller. So neither that
caller by itself nor the service for somebody else gets at what the two have begun together. A name grants nothing.
"""

from __future__ import annotations

import hashlib
import re

from handfast.client.propagation import CALLER_KEY
from handfast.server.chassis.call import Call, serving
from handfast.server.chassis.security.identity import Identity

FORWARD = "callers.forward"
"""The scope of those who may say on whose behalf they call."""

_DIGEST = re.compile(r"[0-9a-f]{32}")


def caller_of(call: Call, identity: Identity) -> str:
    """The name of who makes the call."""
    named = made_for(call, identity)
    if named is None:
        return identity.digest
    call.log["on_behalf_of"] = named
    return on_behalf_of(named, identity.digest)


def made_for(call: Call, identity: Identity) -> str | None:
    """On whose behalf the call says that it is made, where the identity may say so."""
    named = call.metadata.get(CALLER_KEY)
    return str(named) if named is not None and FORWARD in identity.scopes and is_caller(named) else None


def current_caller() -> str | None:
    """The name of who has made the call being served; None outside of calls, and where calls carry no identity."""
    call = serving()
    return None if call is None else call.caller


def current_scopes() -> frozenset[str]:
    """What the caller of the call being served may do; nothing where calls carry no identity."""
    call = serving()
    return frozenset() if call is None or call.identity is None else call.identity.scopes


def on_behalf_of(caller: str, service: str = "") -> str:
    """The name of a service that acts for a caller. `service` is the digest of its identity; without one it is this
    server itself, and no call that comes in has such a name.
    """
    return hashlib.sha256(f"suite\0{service}\0{caller}".encode()).hexdigest()[:32]


def is_caller(name: object) -> bool:
    """Whether this can be such a name."""
    return isinstance(name, str) and _DIGEST.fullmatch(name) is not None
