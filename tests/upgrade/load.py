"""A client that makes every call of the suites that it is given, over and over, until its standard input ends.

    python load.py USERS,PREFERENCES,ACCOUNTS …

It runs with the client of either version, so it uses what both have. It prints a line for each round that all suites
have been through, and at the end what it has seen, as JSON. No call may fail; a transaction may be run again.
"""

from __future__ import annotations

import json
import sys
import threading
import traceback
import uuid
from collections import Counter

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import (
    CreateAccountRequest,
    DeleteAccountRequest,
    GetAccountRequest,
    UpdateUserAndPreferencesRequest,
)
from handfast.client import NotFound, Suite, Transaction, connect
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
    BatchGetTransactionsRequest,
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
COUNT = FieldMask(paths=["labels"])


class RolledBack(Exception):
    pass


class Load:
    """Rounds of calls of one suite."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self.increments = 0
        """Of the shared user, that were acknowledged."""

    def round(self) -> None:
        name = f"u{uuid.uuid4().hex[:16]}"
        self._account(name)
        self._user(name)
        self._preferences(name)
        self._transactions(name)
        self._end(name)

    def _account(self, name: str) -> None:
        accounts = self._suite.accounts
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
        assert self._suite.users.GetUser(GetUserRequest(user_id=name)).user.display_name == "two"

    def _user(self, name: str) -> None:
        users = self._suite.users
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
        assert is_missing(self._suite, plain.user_id)

    def _preferences(self, name: str) -> None:
        preferences = self._suite.preferences
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

    def _transactions(self, name: str) -> None:
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

        suite.transact(count_up, timeout=60.0)
        self.increments += 1
        try:
            with suite.transaction() as tx:
                tx.users.DeleteUser(DeleteUserRequest(user_id=name))
                raise RolledBack
        except RolledBack:
            assert suite.users.GetUser(GetUserRequest(user_id=name)).user.user_id == name
        suite.transact(read_both, timeout=60.0)
        for participant in ("users", "preferences"):
            suite.stub(ParticipantServiceStub, participant).ListBranches(
                ListBranchesRequest(page_size=1, participant=participant)
            )
        listed = suite.transactions.ListTransactions(ListTransactionsRequest(page_size=3)).transactions
        ids = [each.transaction_id for each in listed]
        assert suite.transactions.BatchGetTransactions(BatchGetTransactionsRequest(transaction_ids=ids)).transactions

    def _end(self, name: str) -> None:
        delete = DeleteAccountRequest(user_id=name, request_id=str(uuid.uuid4()))
        self._suite.accounts.DeleteAccount(delete)
        self._suite.accounts.DeleteAccount(delete)
        assert is_missing(self._suite, name)

    def _state(self, transaction_id: str) -> int:
        request = GetTransactionRequest(transaction_id=transaction_id)
        return self._suite.transactions.GetTransaction(request).transaction.state


def read_both(tx: Transaction) -> None:
    tx.users.GetUser(GetUserRequest(user_id=SHARED))
    tx.preferences.GetPreferences(GetPreferencesRequest(user_id=SHARED))


def is_missing(suite: Suite, user_id: str) -> bool:
    try:
        suite.users.GetUser(GetUserRequest(user_id=user_id))
    except NotFound:
        return True
    return False


def main() -> None:
    stopping = threading.Event()
    suites = [connect(*addresses.split(",")) for addresses in sys.argv[1:]]
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
                failures[f"{line.line}: {type(error).__name__}: {error}"] += 1
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
    increments = sum(load.increments for load in loads)
    print(json.dumps({"rounds": sum(rounds), "increments": increments, "failures": failures}), flush=True)


if __name__ == "__main__":
    main()
