"""All that a suite trusts is replaced while it is called, by both clients: no call fails that may be made once more."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from handfast.accounts.v1.accounts_pb2 import GetAccountRequest, UpdateUserAndPreferencesRequest
from handfast.client import TLS, Unauthenticated, aio, connect
from handfast.client.security import tls, tokens
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, Preferences, UpdatePreferencesRequest
from handfast.server.accounts.server import build as build_accounts
from handfast.server.chassis.security import sources, transport
from handfast.server.chassis.server import Server
from handfast.server.cli.ports import free_first_port
from handfast.server.preferences.server import build as build_preferences
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.users.server import build as build_users
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User
from tests.eventually import PATIENCE, eventually
from tests.security.authority import Authority, replace
from tests.security.issuer import Issuer, Key
from tests.security.servers import EVERY_SCOPE

SERVERS: dict[str, Callable[[SuiteSettings], Server]] = {
    "users": build_users,
    "preferences": build_preferences,
    "accounts": build_accounts,
}
SPIFFE = "spiffe://handfast.test/suite"


class Suite:
    """Three servers that have their files in common, and what comes to them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.authority = Authority(folder, "old")
        self.issuer = Issuer(Key("old"))
        self.files, self.client = self.authority.server("server", SPIFFE), self.authority.client()
        self.ca, self.revoked = folder / "ca.pem", folder / "revoked"
        replace(self.ca, self.authority.pem)
        replace(self.revoked, b"")
        scopes = sorted(EVERY_SCOPE | {"callers.forward"})
        (folder / "grants.toml").write_text(f"[grants]\n{json.dumps(SPIFFE)} = {scopes}\n")
        trust = self.issuer.settings(folder)
        self.keys = Path(trust["token_keys"])
        self._token_ids = itertools.count()
        first_port = free_first_port()
        self.addresses = {name: f"localhost:{first_port + place}" for place, name in enumerate(SERVERS)}
        places: dict[str, Any] = {f"{name}_address": address for name, address in self.addresses.items()}
        self.servers = [
            build(
                SuiteSettings(
                    name=name,
                    listen=self.addresses[name],
                    database_url=sqlite_url(folder / f"{name}.sqlite3"),
                    migrate=True,
                    tls_certificate=os.fspath(self.files.certificate),
                    tls_key=os.fspath(self.files.key),
                    tls_client_ca=os.fspath(self.ca),
                    peer_ca=os.fspath(self.ca),
                    certificate_grants=os.fspath(folder / "grants.toml"),
                    revoked_tokens=os.fspath(self.revoked),
                    max_connection_age=0.5,
                    max_connection_age_grace=PATIENCE,
                    **places,
                    **trust,
                )
            )
            for name, build in SERVERS.items()
        ]
        self.connections = 0
        """Begun so far, at all servers."""
        look = transport._Watched.current

        def counted(watched: Any) -> Any:
            self.connections += 1
            return look(watched)

        monkeypatch.setattr(transport._Watched, "current", counted)

    def token(self) -> str:
        """One that is renewed in time while the test runs."""
        scopes = EVERY_SCOPE - {"branches.write"}
        token_id = f"token-{next(self._token_ids)}"
        return self.issuer.token("caller", scopes, jti=token_id, exp=int(time.time()) + 5)

    def take(self, token: str) -> bool:
        """Whether all servers do."""
        with connect(**self.options() | {"token": token}) as suite:
            try:
                suite.users.GetUser(GetUserRequest(user_id="asyncio"))
                suite.preferences.GetPreferences(GetPreferencesRequest(user_id="asyncio"))
                suite.accounts.GetAccount(GetAccountRequest(user_id="asyncio"))
            except Unauthenticated:
                return False
            return True

    def options(self) -> dict[str, Any]:
        """By which callers connect."""
        return {
            **self.addresses,
            "tls": TLS(self.ca, self.client.certificate, self.client.key),
            "token": self.token,
            "timeout": PATIENCE,
        }


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Suite]:
    monkeypatch.setattr(tls, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(sources, "FILE_INTERVAL", 0.05)
    monkeypatch.setattr(tokens, "PAUSE_SECONDS", 0.0)  # or two refusals in a second would be one too many
    suite = Suite(tmp_path, monkeypatch)
    with ExitStack() as stack:
        for server in suite.servers:
            server.start()
            stack.callback(server.stop)
        yield suite


class Load:
    """Calls of both clients, until `done`: how many each has made, and what failed."""

    def __init__(self, suite: Suite) -> None:
        self._options = suite.options()
        self.made = {"synchronous": 0, "asyncio": 0}
        self.failures: list[str] = []
        self.done = threading.Event()

    def synchronous(self) -> None:
        with connect(**self._options) as suite:

            def transaction(user_id: str, number: int) -> None:
                with suite.transaction() as tx:
                    tx.users.GetUser(GetUserRequest(user_id=user_id))
                    tx.preferences.UpdatePreferences(_preferences(user_id))

            suite.users.CreateUser(_new_user("synchronous"))
            calls = _calls(suite, transaction)
            for number in itertools.count():
                if self.done.is_set():
                    return
                try:
                    next(calls)("synchronous", number)
                except Exception as error:
                    self.failures.append(repr(error))
                self.made["synchronous"] += 1

    def asyncio(self) -> None:
        asyncio.run(self._asyncio())

    async def _asyncio(self) -> None:
        async with aio.connect(**self._options) as suite:

            async def transaction(user_id: str, number: int) -> None:
                async with suite.transaction() as tx:
                    await tx.users.GetUser(GetUserRequest(user_id=user_id))
                    await tx.preferences.UpdatePreferences(_preferences(user_id))

            await suite.users.CreateUser(_new_user("asyncio"))
            calls = _calls(suite, transaction)
            for number in itertools.count():
                if self.done.is_set():
                    return
                try:
                    await next(calls)("asyncio", number)
                except Exception as error:
                    self.failures.append(repr(error))
                self.made["asyncio"] += 1


def _calls(suite: Any, transaction: Callable[[str, int], Any]) -> Iterator[Callable[[str, int], Any]]:
    """One after the other, round and round: a read, a write, an account call, a transaction."""
    return itertools.cycle(
        (
            lambda user_id, _: suite.users.GetUser(GetUserRequest(user_id=user_id)),
            lambda user_id, number: suite.users.UpdateUser(_named(user_id, number)),
            lambda user_id, number: suite.accounts.UpdateUserAndPreferences(_both(user_id, number)),
            transaction,
        )
    )


def _new_user(user_id: str) -> CreateUserRequest:
    return CreateUserRequest(user=User(user_id=user_id, email=f"{user_id}@example.com"))


def _named(user_id: str, number: int) -> UpdateUserRequest:
    return UpdateUserRequest(user=User(user_id=user_id, display_name=f"name {number}"))


def _preferences(user_id: str) -> UpdatePreferencesRequest:
    preferences = Preferences(user_id=user_id)
    preferences.values["theme"].string_value = "dark"
    return UpdatePreferencesRequest(preferences=preferences)


def _both(user_id: str, number: int) -> UpdateUserAndPreferencesRequest:
    preferences = Preferences()
    preferences.values["theme"].string_value = "light"
    return UpdateUserAndPreferencesRequest(user=_named(user_id, number).user, preferences=preferences)


def test_no_call_fails_while_all_that_is_trusted_is_replaced(suite: Suite, tmp_path: Path) -> None:
    new = Authority(tmp_path, "new")
    load = Load(suite)

    def issue(authority: Authority, name: str) -> tuple[Callable[[], None], Callable[[], None]]:
        server, client = authority.server(f"server-{name}", SPIFFE), authority.client(f"client-{name}")
        return partial(server.replace, suite.files), partial(client.replace, suite.client)

    def publish(*keys: Key) -> None:
        replace(suite.keys, Issuer(*keys).jwks)
        token = Issuer(new_key).token("caller", EVERY_SCOPE)
        assert eventually(lambda: suite.take(token))  # as no issuer signs with a key before

    def sign_with_the_new_key() -> None:
        suite.issuer.keys = (new_key,)

    def revoke_all_tokens() -> None:
        revoked = range(next(suite._token_ids))
        replace(suite.revoked, "".join(f"token-{number}\n" for number in revoked).encode())

    old_key, new_key = suite.issuer.keys[0], Key("new")
    steps: dict[str, Callable[[], None]] = {
        "nothing": lambda: None,
        **dict(
            zip(("the servers' certificates", "the client's certificate"), issue(suite.authority, "2"), strict=True)
        ),
        "both CAs": lambda: replace(suite.ca, suite.authority.pem + new.pem),
        **dict(zip(("the servers' by the new CA", "the client's by the new CA"), issue(new, "3"), strict=True)),
        "the new CA alone": lambda: replace(suite.ca, new.pem),
        "both keys of tokens": lambda: publish(old_key, new_key),
        "tokens by the new key": sign_with_the_new_key,
        "the new key alone": lambda: publish(new_key),
        "revoked tokens": revoke_all_tokens,
    }
    threads = [threading.Thread(target=each) for each in (load.synchronous, load.asyncio)]
    for thread in threads:
        thread.start()
    try:
        for step, take in steps.items():
            take()
            made, connections = {name: count + 12 for name, count in load.made.items()}, suite.connections + 6

            def go_on(made: dict[str, int] = made, connections: int = connections) -> bool:
                return suite.connections >= connections and all(load.made[each] >= made[each] for each in made)

            assert eventually(go_on, timeout=3 * PATIENCE), (step, load.made, load.failures[:3])
            assert load.failures == [], step
    finally:
        load.done.set()
        for thread in threads:
            thread.join(PATIENCE)
