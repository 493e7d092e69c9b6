"""Clients that make every call of the suites that they are given, over and over, until the standard input ends: of each
suite a synchronous one and one for asyncio.

    python load.py USERS,PREFERENCES,ACCOUNTS …

They are those of either version, so they use what both have. A line is printed for each round that all have been
through, and at the end what they have seen, as JSON. No call may fail; those that the service says may be made again
are.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import (
    CreateAccountRequest,
    DeleteAccountRequest,
    GetAccountRequest,
    UpdateUserAndPreferencesRequest,
)
from handfast.client import NotFound, ServiceError, Suite, Transaction, aio, connect
from handfast.preferences.v1.preferences_pb2 import (
    BatchGetPreferencesRequest,
    CreatePreferenceDefinitionRequest,
    GetPreferencesRequest,
    ListPreferenceDefinitionsRequest,
    PreferenceDefinition,
    Preferences,
    PreferenceType,
    UpdatePreferencesRequest,
)
from handfast.transactions.v1.transactions_pb2 import (
    AcceptLossRequest,
    BatchGetTransactionsRequest,
    CloseBranchRequest,
    GetTransactionRequest,
    ListBranchesRequest,
    ListTransactionsRequest,
    TransactionState,
)
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub
from handfast.users.v1.users_pb2 import (
    BatchGetUsersRequest,
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    ListUsersRequest,
    LookupUserRequest,
    UpdateUserRequest,
    User,
)

SHARED = "shared"
"""The user whose label and preference all clients count up, in transactions."""
ATTEMPTS = 5
CALL_S, TRANSACTION_S = 60.0, 120.0
"""On a busy machine, on which all fight over one user."""
COUNT = FieldMask(paths=["labels"])


class RolledBack(Exception):
    pass


class Patient:
    """A stub whose calls are made again where the service says that this helps and when, as any client may do: they
    change nothing, or have a request id."""

    def __init__(self, stub: Any, repeated: Counter[str]) -> None:
        self._stub, self._repeated = stub, repeated

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        call = getattr(self._stub, method)

        def patiently(request: Any) -> Any:
            if "request_id" in request.DESCRIPTOR.fields_by_name and not method.startswith("Get"):
                request.request_id = request.request_id or str(uuid.uuid4())
            for _ in range(ATTEMPTS - 1):
                try:
                    return call(request)
                except ServiceError as error:
                    if error.retry_after is None:
                        raise
                    self._repeated[f"{method}: {error.reason}"] += 1
                    time.sleep(error.retry_after)
            return call(request)

        return patiently


class FromThreads:
    """A suite for asyncio, or a transaction of one, as a thread sees it that has no event loop: as the synchronous one.
    It lives in `loop`, which runs in another thread."""

    def __init__(self, asynchronous: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._asynchronous, self._loop = asynchronous, loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._asynchronous, name)
        return found if name == "id" else _StubFromThreads(found, self._loop)

    def stub(self, *arguments: Any) -> Any:
        return _StubFromThreads(self._asynchronous.stub(*arguments), self._loop)

    def transact(self, work: Callable[[Any], None], timeout: float) -> None:
        async def in_a_thread(tx: Any) -> None:
            await asyncio.to_thread(work, FromThreads(tx, self._loop))

        _wait(self._asynchronous.transact(in_a_thread, timeout), self._loop)

    def close(self) -> None:
        _wait(self._asynchronous.close(), self._loop)


class _StubFromThreads:
    def __init__(self, stub: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._stub, self._loop = stub, loop

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        async def call(request: Any) -> Any:
            return await getattr(self._stub, method)(request)

        return lambda request: _wait(call(request), self._loop)


def _wait(coroutine: Any, loop: asyncio.AbstractEventLoop) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


async def _connect(*addresses: str) -> aio.Suite:
    return aio.connect(*addresses, timeout=CALL_S)


class Load:
    """Rounds of calls of one suite."""

    def __init__(self, suite: Suite | FromThreads) -> None:
        self._suite = suite
        self.increments = 0
        """Of the shared user, that were acknowledged."""
        self.repeated = Counter[str]()
        """Calls that were made again, by method and reason."""
        self._users = Patient(suite.users, self.repeated)
        self._preferences = Patient(suite.preferences, self.repeated)
        self._accounts = Patient(suite.accounts, self.repeated)
        self._coordinator = Patient(suite.transactions, self.repeated)

    def round(self) -> None:
        name = f"u{uuid.uuid4().hex[:16]}"
        self._call_accounts(name)
        self._call_users(name)
        self._call_preferences(name)
        self._run_transactions(name)
        self._delete(name)

    def _call_accounts(self, name: str) -> None:
        accounts = self._accounts
        user = User(user_id=name, email=f"{name}@example.com", display_name="one")
        created = accounts.CreateAccount(
            CreateAccountRequest(user=user, preferences=Preferences(values={"theme": Value(string_value="dark")}))
        )
        account = accounts.GetAccount(GetAccountRequest(user_id=name)).account
        assert account.preferences.values["theme"].string_value == "dark"
        assert self._state(created.transaction_id) == TransactionState.TRANSACTION_STATE_COMMITTED
        update = UpdateUserAndPreferencesRequest(
            user=User(user_id=name, display_name="two"),
            user_update_mask=FieldMask(paths=["display_name"]),
            preferences=Preferences(user_id=name, values={"theme": Value(string_value="light")}),
            preferences_update_mask=FieldMask(paths=["values.theme"]),
            request_id=str(uuid.uuid4()),
        )
        first, again = (accounts.UpdateUserAndPreferences(update) for _ in range(2))
        assert first.transaction_id == again.transaction_id
        assert self._users.GetUser(GetUserRequest(user_id=name)).user.display_name == "two"

    def _call_users(self, name: str) -> None:
        users = self._users
        assert users.LookupUser(LookupUserRequest(email=f"{name}@example.com")).user.user_id == name
        assert len(users.BatchGetUsers(BatchGetUsersRequest(user_ids=[name, "nobody"])).users) == 1
        assert users.ListUsers(ListUsersRequest(page_size=3)).users
        update = UpdateUserRequest(
            user=User(user_id=name, locale="pt"), update_mask=FieldMask(paths=["locale"]), request_id=str(uuid.uuid4())
        )
        first, again = (users.UpdateUser(update).user for _ in range(2))
        assert first.etag == again.etag
        plain = User(user_id=f"{name}-plain", email=f"{name}@plain.example.com")
        users.CreateUser(CreateUserRequest(user=plain))
        users.DeleteUser(DeleteUserRequest(user_id=plain.user_id))
        assert self._is_missing(plain.user_id)

    def _call_preferences(self, name: str) -> None:
        preferences = self._preferences
        got = preferences.GetPreferences(GetPreferencesRequest(user_id=name, include_defaults=True)).preferences
        assert got.values["theme"].string_value == "light"
        assert preferences.BatchGetPreferences(BatchGetPreferencesRequest(user_ids=[name])).preferences
        changed = Preferences(user_id=name, values={"items_per_page": Value(number_value=50)})
        preferences.UpdatePreferences(
            UpdatePreferencesRequest(preferences=changed, update_mask=FieldMask(paths=["values.items_per_page"]))
        )
        assert preferences.ListPreferenceDefinitions(ListPreferenceDefinitionsRequest(page_size=5)).definitions
        definition = PreferenceDefinition(key=f"key_{name}", type=PreferenceType.PREFERENCE_TYPE_STRING)
        preferences.CreatePreferenceDefinition(CreatePreferenceDefinitionRequest(definition=definition))

    def _run_transactions(self, name: str) -> None:
        suite = self._suite

        def count_up(tx: Transaction) -> None:
            user = tx.users.GetUser(GetUserRequest(user_id=SHARED)).user
            tx.preferences.GetPreferences(GetPreferencesRequest(user_id=name))
            user.labels["count"] = str(int(user.labels["count"]) + 1)
            tx.users.UpdateUser(UpdateUserRequest(user=User(user_id=SHARED, labels=user.labels), update_mask=COUNT))
            values = {"items_per_page": Value(number_value=25)}
            tx.preferences.UpdatePreferences(
                UpdatePreferencesRequest(
                    preferences=Preferences(user_id=SHARED, values=values),
                    update_mask=FieldMask(paths=["values.items_per_page"]),
                )
            )

        suite.transact(count_up, timeout=TRANSACTION_S)
        self.increments += 1

        def delete_and_regret(tx: Transaction) -> None:
            tx.users.DeleteUser(DeleteUserRequest(user_id=name))
            raise RolledBack

        try:
            suite.transact(delete_and_regret, timeout=TRANSACTION_S)
        except RolledBack:
            assert self._users.GetUser(GetUserRequest(user_id=name)).user.user_id == name
        suite.transact(read_both, timeout=TRANSACTION_S)
        self._ask_participants(name)
        listed = self._coordinator.ListTransactions(ListTransactionsRequest(page_size=3)).transactions
        ids = [each.transaction_id for each in listed]
        assert self._coordinator.BatchGetTransactions(BatchGetTransactionsRequest(transaction_ids=ids)).transactions

    def _ask_participants(self, name: str) -> None:
        branches = {
            participant: Patient(self._suite.stub(ParticipantServiceStub, participant), self.repeated)
            for participant in ("users", "preferences")
        }

        def close_and_regret(tx: Transaction) -> None:
            tx.users.DeleteUser(DeleteUserRequest(user_id=name))
            closed = branches["users"].CloseBranch(CloseBranchRequest(transaction_id=tx.id, participant="users"))
            assert closed.branch.operation_count == 1
            raise RolledBack

        try:
            self._suite.transact(close_and_regret, timeout=TRANSACTION_S)
        except RolledBack:
            assert self._users.GetUser(GetUserRequest(user_id=name)).user.user_id == name
        for participant, its_branches in branches.items():
            its_branches.ListBranches(ListBranchesRequest(page_size=1, participant=participant))

    def _delete(self, name: str) -> None:
        delete = DeleteAccountRequest(user_id=name, request_id=str(uuid.uuid4()))
        first, again = (self._accounts.DeleteAccount(delete) for _ in range(2))
        assert first.transaction_id == again.transaction_id
        assert self._is_missing(name)
        loss = AcceptLossRequest(transaction_id=first.transaction_id, participants=["users"])  # of nothing
        state = self._coordinator.AcceptLoss(loss).transaction.state
        assert state == TransactionState.TRANSACTION_STATE_COMMITTED

    def _is_missing(self, user_id: str) -> bool:
        try:
            self._users.GetUser(GetUserRequest(user_id=user_id))
        except NotFound:
            return True
        return False

    def _state(self, transaction_id: str) -> int:
        request = GetTransactionRequest(transaction_id=transaction_id)
        state: int = self._coordinator.GetTransaction(request).transaction.state
        return state


def read_both(tx: Transaction) -> None:
    tx.users.GetUser(GetUserRequest(user_id=SHARED))
    tx.preferences.GetPreferences(GetPreferencesRequest(user_id=SHARED))


def main() -> None:
    stopping = threading.Event()
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    suites: list[Suite | FromThreads] = []
    for addresses in (each.split(",") for each in sys.argv[1:]):
        suites += [connect(*addresses, timeout=CALL_S), FromThreads(_wait(_connect(*addresses), loop), loop)]
    loads = [Load(suite) for suite in suites]
    rounds, failures = [0] * len(loads), Counter[str]()
    told = threading.Lock()

    def work(number: int) -> None:
        while not stopping.is_set():
            try:
                loads[number].round()
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)
                line = next(each for each in reversed(place) if each.filename == __file__)
                failures[failure := f"{line.line}: {type(error).__name__}: {error}"] += 1
                print(failure, file=sys.stderr, flush=True)
                if failures.total() > 100:
                    break
            with told:
                before = min(rounds)
                rounds[number] += 1
                if min(rounds) > before:
                    print("round", flush=True)

    threads = [threading.Thread(target=work, args=[number]) for number in range(len(loads))]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stopping.set()
    for thread in threads:
        thread.join()
    for suite in suites:
        suite.close()
    increments, repeated = (
        sum(load.increments for load in loads),
        sum((load.repeated for load in loads), Counter[str]()),
    )
    told_last = {"rounds": sum(rounds), "increments": increments, "failures": failures, "repeated": repeated}
    print(json.dumps(told_last), flush=True)


if __name__ == "__main__":
    main()
