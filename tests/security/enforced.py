"""A suite that demands tokens, over plain text, and those who call it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handfast.client import Suite, connect
from handfast.server.accounts import server as accounts
from handfast.server.chassis.security.identity import Identity
from handfast.server.chassis.server import Server
from handfast.server.cli.ports import free_first_port
from handfast.server.preferences import server as preferences
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.users import server as users
from tests.security.issuer import Issuer, bearer

Metadata = tuple[tuple[str, str], ...]
Place = tuple[Suite, dict[str, Any]]
"""A client without a token, and where the servers are."""

OF_CALLERS = ("users.read", "users.write", "preferences.read", "preferences.write", "transactions.run")
OF_SERVERS = (*OF_CALLERS, "transactions.resolve", "branches.read", "branches.write", "callers.forward")
ISSUER = Issuer()


def digest(subject: str) -> str:
    return Identity.of_token(ISSUER.url, subject, ()).digest


def as_caller(subject: str, *more: str) -> Metadata:
    return bearer(ISSUER.token(subject, (*OF_CALLERS, *more)))


SUITE = bearer(ISSUER.token("suite", OF_SERVERS))


MODULES = {"users": users, "preferences": preferences, "accounts": accounts}


@contextlib.contextmanager
def suite(folder: Path, mode: str = "enforce") -> Iterator[tuple[Suite, dict[str, Server]]]:
    """A client without a token, and the servers of a suite that demands one; or whose participants have this `mode`."""
    first_port, servers = free_first_port(), dict[str, Server]()
    addresses = {name: f"127.0.0.1:{first_port + offset}" for offset, name in enumerate(MODULES)}
    settings: dict[str, Any] = {f"{name}_address": address for name, address in addresses.items()}
    token = folder / "suite.token"
    token.touch(mode=0o600)
    token.write_text(ISSUER.token("suite", OF_SERVERS))
    settings |= ISSUER.settings(folder) | {"peer_token": str(token)}
    with contextlib.ExitStack() as stack:
        for name, module in MODULES.items():
            own = settings if name == "accounts" else settings | {"authentication": mode}
            url = sqlite_url(folder / f"{name}.sqlite3")
            server = module.build(
                SuiteSettings(name=name, listen=addresses[name], database_url=url, migrate=True, grace=0.5, **own)
            )
            server.start()
            stack.callback(server.stop)
            servers[name] = server
        yield stack.enter_context(connect(*addresses.values())), servers
