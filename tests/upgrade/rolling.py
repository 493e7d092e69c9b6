"""The steps of an upgrade from the last version to this one, and of the way back, with clients that call meanwhile.

1. Servers of the last version serve, and a client of that version calls them until the end.
2. The databases are migrated by this version.
3. Further replicas come: of this version, which call servers of the last, and of the last, which call servers of this.
   Clients of both versions call those of the other one. So each call between servers and from clients is made in both
   directions, and all of them have the same rows.
4. These end, and the databases are taken back to the revisions of the last version.

No call fails, and what is counted up in transactions is counted once.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from google.protobuf.field_mask_pb2 import FieldMask

from handfast.client import ServiceError, Suite, Transaction, connect
from handfast.server.cli.ports import free_first_port
from handfast.server.cli.settings import on_this_machine
from handfast.transactions.v1.transactions_pb2 import ListTransactionsRequest
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User
from tests.cli.processes import Result, run_process
from tests.databases.postgresql import PostgreSQL
from tests.eventually import eventually
from tests.replicas.servers import NAMES, start, stop
from tests.upgrade.last_version import extract
from tests.upgrade.load import SHARED
from tests.upgrade.servers import Access, Client, Servers, Version

CONTENDED = "contended"
TAKES_TLS = "servers/handfast/server/cli/dev/folder.py"
"""What a version has that takes TLS and tokens. Then all servers and clients of the test do."""
DATABASES = dict(zip(NAMES, ("users", "preferences", "transactions"), strict=True))


@dataclass
class Seen:
    """`calls` are those that servers answered, by version of the server, method, and code; `migrated` is what
    `handfast migrate` said, forth and back."""

    rounds: int = 0
    increments: int = 0
    counted: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    calls: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    migrated: list[str] = field(default_factory=list)
    unfinished: int = -1


def roll(version: str, folder: Path, database: PostgreSQL, rounds: int) -> Seen:
    """Each of the steps lasts until every client has made all calls so many times. Raises NoHistory."""
    last, this = Version("last", extract(version, folder / "code")), Version("this")
    urls, seen = database.create_databases(), Seen()
    access = Access(folder / "credentials") if (folder / "code" / TAKES_TLS).exists() else None
    with_access = access.of_suite if access else {}
    with contextlib.ExitStack() as stack:

        def servers(code: Version, addresses: Mapping[str, str], peers: Mapping[str, str]) -> Servers:
            logs = folder / f"{code.name}-{len(list(folder.glob(f'{code.name}-*')))}"
            made = Servers(code, addresses, peers, urls, logs, access, migrate=code is last)
            stack.callback(stop, made.servers)
            return made

        def client(code: Version, *suites: Mapping[str, str]) -> Client:
            made = Client(code, list(suites), folder / f"client-{len(list(folder.glob('client-*')))}", access)
            stack.callback(made.kill)
            return made

        first, of_this, of_last = (on_this_machine(free_first_port()) for _ in range(3))
        staying = servers(last, first, first)
        start(staying.servers)
        suite = stack.enter_context(connect(*first.values(), **with_access))
        for name in (SHARED, CONTENDED):
            user = User(user_id=name, email=f"{name}@example.com", labels={"count": "0"})
            suite.users.CreateUser(CreateUserRequest(user=user))
        clients = [client(last, first)]
        clients[0].wait_for_rounds(rounds)

        versions = {name: _version(database, name) for name in NAMES}
        seen.migrated.append(_migrate(urls))
        clients[0].wait_for_rounds(rounds)

        mixed = [servers(this, of_this, of_last), servers(last, of_last, of_this)]
        start([server for each in mixed for server in each.servers])
        clients.append(client(last, of_this, {**of_this, "accounts": of_last["accounts"]}))
        clients.append(client(this, of_last, {**of_last, "accounts": of_this["accounts"]}))
        for addresses in (of_last, of_this):
            _contend(addresses, with_access, seen)
        for calling in clients:
            calling.wait_for_rounds(rounds)
        for leaving in clients[1:]:
            _add(seen, leaving)
        _wait_until_finished(suite, seen)
        stop([server for each in mixed for server in each.servers])

        for name, revision in versions.items():
            seen.migrated.append(_migrate(urls, name, "--to", revision))
        clients[0].wait_for_rounds(rounds)
        _add(seen, clients[0])
        seen.counted = int(suite.users.GetUser(GetUserRequest(user_id=SHARED)).user.labels["count"])
        for each in (staying, *mixed):
            for call in each.calls():
                seen.calls[each.version.name, f"{call['grpc.service']}/{call['grpc.method']}", call["grpc.code"]] += 1
    return seen


def _contend(addresses: Mapping[str, str], access: Mapping[str, Any], seen: Seen) -> None:
    """A transaction of this version's client that is aborted for another one, and then locks first what that was."""
    rename = UpdateUserRequest(
        user=User(user_id=CONTENDED, display_name="twice"), update_mask=FieldMask(paths=["display_name"])
    )
    attempts = 0
    with connect(*addresses.values(), **access) as suite, contextlib.ExitStack() as held:
        held.enter_context(suite.transaction()).users.UpdateUser(rename)

        def work(tx: Transaction) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 2:
                held.close()
            tx.users.UpdateUser(rename)

        try:
            suite.transact(work)
        except ServiceError as error:
            seen.failures[f"in a contended transaction: {error}"] += 1


def _version(database: PostgreSQL, server: str) -> str:
    engine = sa.create_engine(database.url(DATABASES[server]))
    with engine.connect() as connection:
        version: str = connection.exec_driver_sql(f"SELECT version_num FROM alembic_version_{server}").scalar_one()
    engine.dispose()
    return version


def _migrate(urls: Mapping[str, str], *arguments: str) -> str:
    done: Result = run_process(("migrate", *arguments), urls)
    assert done.status == 0, done.stderr
    return done.stdout


def _add(seen: Seen, client: Client) -> None:
    told = client.end()
    seen.rounds += told.rounds
    seen.increments += told.increments
    seen.failures.update(told.failures)
    seen.repeated.update(told.repeated)


def _wait_until_finished(suite: Suite, seen: Seen) -> None:
    """What the servers of one version began and those of the other one finish."""
    request = ListTransactionsRequest(unfinished=True)

    def is_finished() -> bool:
        seen.unfinished = len(suite.transactions.ListTransactions(request).transactions)
        return seen.unfinished == 0

    eventually(is_finished)
