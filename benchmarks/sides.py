"""The sides of the rows: what each starts, which calls it gets, and whose processor time is counted."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from benchmarks import fill, http1
from benchmarks.calls import Calls, Method, Program, Servers, cpu_seconds
from benchmarks.harness import Side, Turn
from benchmarks.http1 import Http1
from benchmarks.peers import database
from benchmarks.place import USERS, Peer, Place, Security, Suite, count, variables
from benchmarks.wire import Credentials, Wire
from handfast.accounts.v1.accounts_pb2 import UpdateUserAndPreferencesRequest
from handfast.client import Suite as Client
from handfast.client import Transaction
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, Preferences, UpdatePreferencesRequest
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from tests.cli.processes import suite_up

_GET_USER = "/handfast.users.v1.UserService/GetUser"
_UPDATE_USER = "/handfast.users.v1.UserService/UpdateUser"
_UPDATE_PREFERENCES = "/handfast.preferences.v1.PreferencesService/UpdatePreferences"
_GET_PREFERENCES = "/handfast.preferences.v1.PreferencesService/GetPreferences"
_COMMIT = "/handfast.transactions.v1.TransactionService/CommitTransaction"
_UPDATE_BOTH = "/handfast.accounts.v1.AccountService/UpdateUserAndPreferences"


# The suite


def get_user(place: Place, security: Security = Security.OPEN, traced: str = "") -> Side:
    """GetUser of the suite, which asks that of its callers and records that share; counted is the users server."""
    suite = place.suite(security=security, traced=traced)
    return Calls([_method(suite, "users", _GET_USER, _get_user)], _servers(suite, "users"))


def update_user(place: Place) -> Side:
    """UpdateUser of the suite; counted is the users server."""
    suite = place.suite()
    return Calls([_method(suite, "users", _UPDATE_USER, _update_user)], _servers(suite, "users"))


def two_updates(place: Place) -> Side:
    """UpdateUser and UpdatePreferences, two calls at the same time; counted are both servers."""
    suite = place.suite()
    methods = [
        _method(suite, "users", _UPDATE_USER, _update_user),
        _method(suite, "preferences", _UPDATE_PREFERENCES, _update_preferences),
    ]
    return Calls(methods, _servers(suite, "users", "preferences"))


def atomic_update(
    place: Place, users: int = USERS, finished: int = 0, security: Security = Security.OPEN, traced: str = ""
) -> Side:
    """UpdateUserAndPreferences of the suite, which has so many users and finished transactions, asks that of its
    callers and records that share; counted are all three servers, until every transaction is finished.
    """
    suite = place.suite(users, finished, security, traced)
    return Calls([_method(suite, "accounts", _UPDATE_BOTH, _update_both)], _all_servers(suite))


# Programs that use the client


def account_call(place: Place) -> Side:
    """UpdateUserAndPreferences."""
    return _program(
        place, lambda suite, *each: suite.accounts.UpdateUserAndPreferences(_update_both(*each)), _UPDATE_BOTH
    )


def transaction_at_once(place: Place) -> Side:
    """A transaction that updates a user and preferences, both at the same time."""

    def both(suite: Client, *each: Any) -> None:
        with suite.transaction() as tx:
            user = tx.users.UpdateUser.future(_update_user(*each))
            preferences = tx.preferences.UpdatePreferences.future(_update_preferences(*each))
            user.result()
            preferences.result()

    return _program(place, both, _UPDATE_USER, _UPDATE_PREFERENCES, _COMMIT)


def transaction_in_sequence(place: Place) -> Side:
    """A transaction that updates a user, then preferences."""

    def one_by_one(suite: Client, *each: Any) -> None:
        with suite.transaction() as tx:
            tx.users.UpdateUser(_update_user(*each))
            tx.preferences.UpdatePreferences(_update_preferences(*each))

    return _program(place, one_by_one, _UPDATE_USER, _UPDATE_PREFERENCES, _COMMIT)


def transaction_that_writes(place: Place) -> Side:
    """A transaction that reads a user and preferences, and updates the user."""
    return _program(place, _in_transaction(_read_and_write), _GET_USER, _GET_PREFERENCES, _UPDATE_USER, _COMMIT)


def calls_that_write(place: Place) -> Side:
    """The same calls without a transaction."""
    return _program(place, _read_and_write, _GET_USER, _GET_PREFERENCES, _UPDATE_USER)


def transaction_that_reads(place: Place) -> Side:
    """A transaction that reads a user and preferences."""
    return _program(place, _in_transaction(_read_both), _GET_USER, _GET_PREFERENCES)


def calls_that_read(place: Place) -> Side:
    """The same calls without a transaction."""
    return _program(place, _read_both, _GET_USER, _GET_PREFERENCES)


def _read_both(stubs: Client | Transaction, *each: Any) -> None:
    stubs.users.GetUser(_get_user(*each))
    stubs.preferences.GetPreferences(_get_preferences(*each))


def _read_and_write(stubs: Client | Transaction, *each: Any) -> None:
    _read_both(stubs, *each)
    stubs.users.UpdateUser(_update_user(*each))


def _in_transaction(do: Callable[..., None]) -> Callable[..., None]:
    def transaction(suite: Client, *each: Any) -> None:
        with suite.transaction() as tx:
            do(tx, *each)

    return transaction


# Other servers


def echo(place: Place) -> Side:
    """Bare `grpc.server`, which answers GetUser with a constant message."""
    return _constant(place.peer("bare", "echo"))


def echo_by_tls(place: Place) -> Side:
    """The same by mutual TLS."""
    made, credentials = place.new_credentials(Security.TLS)
    files = made.certificate("users"), made.key("users"), made.ca
    return _constant(place.peer("bare", "echo-by-tls", *map(str, files)), credentials)


def empty_bare(place: Place) -> Side:
    """Bare `grpc.server`, which answers with an empty message."""
    return _constant(place.peer("bare", "empty"))


def empty_chassis(place: Place) -> Side:
    """The chassis, which answers with an empty message."""
    return _constant(place.peer("chassis"))


def empty_kit(place: Place) -> Side:
    """grpc-server-kit, which answers with an empty message."""
    return _constant(place.peer("kit"))


def _constant(peer: Peer, credentials: Credentials | None = None) -> Side:
    method = _rpc(peer.address, _GET_USER, lambda number: GetUserRequest(user_id=fill.user_id(0)), credentials)
    return Calls([method], Servers([peer.pid], peer.metrics_urls))


def get_user_bare(place: Place) -> Side:
    """Bare `grpc.server`, which reads the user with SQLAlchemy Core from the suite's own database."""
    suite = place.suite()
    peer = place.peer("bare", "get-user", suite.database_urls["users"])
    method = _rpc(peer.address, _GET_USER, lambda number: _get_user(suite.user_id(number), number))
    return Calls([method], Servers([peer.pid]))


def get_user_fastapi(place: Place, kind: str) -> Side:
    """FastAPI, which reads the user from the suite's own database; `kind` is sync or async."""
    return _fastapi(place, kind, lambda user_id, number: http1.request("GET", f"/users/{user_id}"))


def update_user_fastapi(place: Place, kind: str) -> Side:
    """FastAPI, which updates the user in the suite's own database; `kind` is sync or async."""

    def request(user_id: str, number: int) -> bytes:
        return http1.request("PATCH", f"/users/{user_id}", json.dumps({"display_name": f"Ada {number}"}).encode())

    return _fastapi(place, kind, request)


def _fastapi(place: Place, kind: str, request: Callable[[str, int], bytes]) -> Side:
    suite = place.suite()
    peer = place.peer("fastapi_app", kind, suite.database_urls["users"])
    method = Method("/users/{user_id}", partial(Http1, peer.address), lambda n: request(suite.user_id(n), n))
    return Calls([method], Servers([peer.pid], peer.metrics_urls))


def facade(place: Place) -> Calls:
    """A server on the chassis that makes both updates, by the suite's servers, without the guarantee; counted are all
    three.
    """
    suite = place.suite()
    peer = place.peer("facade", suite.address("users"), suite.address("preferences"))
    both = _servers(suite, "users", "preferences")
    method = _rpc(peer.address, _UPDATE_BOTH, lambda number: _update_both(suite.user_id(number), number))
    return Calls([method], Servers([*both.pids, peer.pid], [*both.metrics_urls, *peer.metrics_urls]))


def update_user_of_facade(place: Place) -> Side:
    """The same; counted is the users server alone."""
    whole = facade(place)
    return Calls(whole.methods, Servers(_servers(place.suite(), "users").pids, whole.servers.metrics_urls))


# Processes without a server


def two_phase(place: Place) -> Side:
    """PREPARE TRANSACTION on the suite's own databases, and a log of decisions."""
    return _in_process(place, "two_phase")


def dbos(place: Place) -> Side:
    """A DBOS workflow that updates the suite's own databases."""
    return _in_process(place, "dbos_app")


def _in_process(place: Place, module: str) -> Side:
    urls = place.suite().database_urls
    return InProcess(place.peer(module, *(urls[name] for name in ("users", "preferences", "transactions"))))


class InProcess:
    """Talks with `peers/in_process.py`."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def turn(self, callers: int, seconds: float) -> Turn:
        stdin, stdout = self._peer.popen.stdin, self._peer.popen.stdout
        assert stdin is not None
        assert stdout is not None
        cpu_before, began = cpu_seconds([self._peer.pid]), time.perf_counter()
        print(callers, seconds, file=stdin, flush=True)
        times = json.loads(stdout.readline())
        elapsed, cpu = time.perf_counter() - began, cpu_seconds([self._peer.pid]) - cpu_before
        return Turn(len(times), elapsed, statistics.median(times) * 1000, cpu)


# Starting


def import_client(place: Place) -> Side:
    """A process that imports `handfast.client` and ends."""
    return Import("handfast.client")


def import_grpc(place: Place) -> Side:
    """A process that imports `grpc` and ends."""
    return Import("grpc")


class Import:
    def __init__(self, module: str) -> None:
        self._command = [sys.executable, "-c", f"import {module}"]

    def turn(self, callers: int, seconds: float) -> Turn:
        began = time.perf_counter()
        subprocess.run(self._command, check=True)
        elapsed = time.perf_counter() - began
        return Turn(1, elapsed, elapsed * 1000, 0)


def suite_start(place: Place) -> Side:
    """`handfast up` with databases that are there, until it says `ready`."""
    return Start(place)


class Start:
    def __init__(self, place: Place) -> None:
        self._folder = place.new_folder()
        self._environment = variables(place.new_databases(self._folder))

    def turn(self, callers: int, seconds: float) -> Turn:
        began = time.perf_counter()
        with suite_up(self._folder, self._environment):
            elapsed = time.perf_counter() - began
        return Turn(1, elapsed, elapsed * 1000, 0)


def bare_start(place: Place) -> Side:
    """Three bare `grpc.server` that read users, started at the same time, until all are ready."""
    return BareStart(place)


class BareStart:
    def __init__(self, place: Place) -> None:
        self._command = [
            sys.executable,
            "-m",
            "benchmarks.peers.bare",
            "get-user",
            place.suite().database_urls["users"],
        ]

    def turn(self, callers: int, seconds: float) -> Turn:
        began = time.perf_counter()
        servers = [subprocess.Popen(self._command, stdout=subprocess.PIPE) for _ in range(3)]
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline()
        elapsed = time.perf_counter() - began
        for server in servers:
            server.kill()
            with server:
                pass
        return Turn(1, elapsed, elapsed * 1000, 0)


# Calls


def _method(suite: Suite, server: str, path: str, request: Callable[[str, int], Message]) -> Method:
    return _rpc(suite.address(server), path, lambda number: request(suite.user_id(number), number), suite.credentials)


def _rpc(address: str, path: str, request: Callable[[int], Message], credentials: Credentials | None = None) -> Method:
    connect = partial(Wire, address, path, credentials=credentials)
    return Method(path, connect, lambda number: request(number).SerializeToString())


def _servers(suite: Suite, *names: str, unfinished: Callable[[], int] = lambda: 0) -> Servers:
    pids = suite.process.servers()
    urls, tls = [suite.metrics_url(name) for name in names], suite.credentials.tls if suite.credentials else None
    return Servers([pids[name] for name in names], urls, unfinished, tls)


def _all_servers(suite: Suite) -> Servers:
    unfinished = count(suite.database_urls["transactions"], "SELECT count(*) FROM decisions WHERE finish_time IS NULL")
    return _servers(suite, "users", "preferences", "accounts", unfinished=unfinished)


def _program(place: Place, do: Callable[..., object], *paths: str) -> Side:
    """Does it with `handfast.client`, a user's id and the number of the call. Counted are all three servers."""
    suite = place.suite()
    return Program(place.client, lambda client, n: do(client, suite.user_id(n), n), paths, _all_servers(suite))


def _get_user(user_id: str, number: int) -> GetUserRequest:
    return GetUserRequest(user_id=user_id)


def _get_preferences(user_id: str, number: int) -> GetPreferencesRequest:
    return GetPreferencesRequest(user_id=user_id)


def _update_user(user_id: str, number: int) -> UpdateUserRequest:
    return UpdateUserRequest(user=_user(user_id, number))


def _update_preferences(user_id: str, number: int) -> UpdatePreferencesRequest:
    return UpdatePreferencesRequest(preferences=_preferences(user_id, number))


def _update_both(user_id: str, number: int) -> UpdateUserAndPreferencesRequest:
    return UpdateUserAndPreferencesRequest(user=_user(user_id, number), preferences=_preferences(user_id, number))


def _user(user_id: str, number: int) -> User:
    return User(user_id=user_id, display_name=f"Ada {number}")


def _preferences(user_id: str, number: int) -> Preferences:
    return Preferences(user_id=user_id, values={"theme": Value(string_value=database.theme(number))})
