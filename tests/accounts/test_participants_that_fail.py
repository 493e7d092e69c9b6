"""What becomes of an account call when a participant is away, hangs, or does not know transactions."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from handfast.accounts.v1.accounts_pb2_grpc import AccountServiceStub
from handfast.client import DeadlineExceeded, FailedPrecondition, Suite, Unavailable, options
from handfast.client.errors import service_error
from handfast.preferences.v1 import preferences_pb2, preferences_pb2_grpc
from handfast.preferences.v1.preferences_pb2 import Preferences
from handfast.transactions.v1.transactions_pb2 import (
    TRANSACTION_STATE_ABORTED,
    TRANSACTION_STATE_COMMITTED,
    GetTransactionRequest,
    ListTransactionsRequest,
)
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from tests.accounts.accounts import StartAccounts, StartServer, create_account, get_account, text, update
from tests.calls import bare_channel
from tests.eventually import PATIENCE, eventually
from tests.people import create_user
from tests.silence import way_to

NOBODY = "127.0.0.1:9"
"""Where no server listens."""


@contextlib.contextmanager
def serving(servicer: preferences_pb2_grpc.PreferencesServiceServicer) -> Iterator[str]:
    """The address of a preferences service."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    preferences_pb2_grpc.add_PreferencesServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture
def deaf_preferences() -> Iterator[str]:
    """The address of one that ignores transaction metadata, and answers as if it had staged."""

    class Deaf(preferences_pb2_grpc.PreferencesServiceServicer):
        def UpdatePreferences(self, request: Any, context: Any) -> preferences_pb2.UpdatePreferencesResponse:
            return preferences_pb2.UpdatePreferencesResponse(preferences=request.preferences)

    with serving(Deaf()) as address:  # type: ignore[abstract]
        yield address


class Hanging(preferences_pb2_grpc.PreferencesServiceServicer):
    """Answers nothing; `left` is set when the caller leaves."""

    def __init__(self) -> None:
        self.entered, self.left = threading.Event(), threading.Event()

    def UpdatePreferences(self, request: Any, context: Any) -> preferences_pb2.UpdatePreferencesResponse:
        context.add_callback(self.left.set)
        self.entered.set()
        self.left.wait(30)
        return preferences_pb2.UpdatePreferencesResponse()


def renaming(user: User) -> Any:
    wanted = User(user_id=user.user_id, display_name="Countess")
    return update(wanted, Preferences(values={"theme": text("dark")}))


def can_be_written(client: Suite, user: User) -> bool:
    with contextlib.suppress(Exception):
        client.users.UpdateUser(UpdateUserRequest(user=User(user_id=user.user_id, locale="en")))
        return True
    return False


@pytest.mark.usefixtures("short_pauses")
def test_with_one_service_away_the_other_is_left_as_it_was(client: Suite, accounts_with: StartAccounts) -> None:
    ada = create_user(client, display_name="Ada")
    away = accounts_with(NOBODY)
    before = len(away.transactions.ListTransactions(ListTransactionsRequest()).transactions)
    with pytest.raises(Unavailable) as refused:
        away.accounts.UpdateUserAndPreferences(renaming(ada))
    tried = len(away.transactions.ListTransactions(ListTransactionsRequest()).transactions) - before
    assert tried == 1, "the server has tried again already, so the client does not"
    assert (refused.value.service, refused.value.reason) == ("handfast.accounts", "PEER_UNAVAILABLE")
    assert refused.value.retryable
    assert NOBODY not in str(refused.value)
    assert client.users.GetUser(GetUserRequest(user_id=ada.user_id)).user == ada
    assert eventually(lambda: can_be_written(client, ada))


def test_a_service_is_found_again_whose_connection_went_silent(
    client: Suite, addresses: dict[str, str], accounts_with: StartAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "DEFAULT_KEEPALIVE", 1.0)
    account = create_account(client)
    with way_to(addresses["preferences"]) as way:
        suite = accounts_with(way.address)

        def answers() -> bool:
            with contextlib.suppress(DeadlineExceeded, Unavailable):
                return bool(get_account(suite, account.user.user_id) == account)
            return False

        assert answers()
        way.silence()
        assert eventually(answers, timeout=2 * PATIENCE)


def test_no_call_fails_as_a_replica_of_a_service_goes_silent(
    client: Suite, addresses: dict[str, str], accounts_with: StartAccounts
) -> None:
    """Each call has ten seconds, in which the server makes its own again on the other replica."""
    account = create_account(client)
    with way_to(addresses["preferences"]) as way:
        suite = accounts_with(f"{way.address},{addresses['preferences']}")
        for _ in range(4):
            assert get_account(suite, account.user.user_id) == account
        assert way.connections == 1
        way.silence()
        for _ in range(4):
            suite.accounts.UpdateUserAndPreferences(renaming(account.user))
            get_account(suite, account.user.user_id)
        assert eventually(lambda: way.connections == 2)


@pytest.mark.usefixtures("short_pauses")
def test_what_a_service_that_is_away_has_to_finish_is_listed_with_the_oldest_first(
    client: Suite, accounts_with: StartAccounts
) -> None:
    away = accounts_with(NOBODY)
    for _ in range(2):
        with pytest.raises(Unavailable):
            away.accounts.UpdateUserAndPreferences(renaming(create_user(client)))
    decided = [
        each.transaction_id for each in away.transactions.ListTransactions(ListTransactionsRequest()).transactions
    ]
    request = ListTransactionsRequest(unfinished=True, page_size=1)
    first = away.transactions.ListTransactions(request)
    request.page_token = first.next_page_token
    second = away.transactions.ListTransactions(request)
    listed = [each.transaction_id for each in (*first.transactions, *second.transactions)]
    assert listed == sorted(decided)
    assert (len(first.transactions), second.next_page_token) == (1, "")


def test_a_service_that_ignores_transactions_cannot_pass_unnoticed(
    client: Suite, accounts_with: StartAccounts, deaf_preferences: str
) -> None:
    ada = create_user(client, display_name="Ada")
    suite = accounts_with(deaf_preferences)
    with pytest.raises(FailedPrecondition) as refused:
        suite.accounts.UpdateUserAndPreferences(renaming(ada))
    assert (refused.value.reason, refused.value.metadata) == ("NOT_STAGED", {"participant": "preferences"})
    assert client.users.GetUser(GetUserRequest(user_id=ada.user_id)).user == ada
    (aborted,) = suite.transactions.ListTransactions(ListTransactionsRequest(page_size=1)).transactions
    assert (aborted.state, aborted.abort_reason) == (TRANSACTION_STATE_ABORTED, "NOT_STAGED")
    assert dict(refused.value.trailing_metadata())["handfast-transaction-id"] == aborted.transaction_id


def test_another_service_at_the_address_of_a_participant_is_named_and_nothing_is_changed(
    client: Suite, addresses: dict[str, str], accounts_with: StartAccounts
) -> None:
    ada = create_user(client, display_name="Ada")
    with pytest.raises(FailedPrecondition) as refused:
        accounts_with(addresses["users"]).accounts.UpdateUserAndPreferences(renaming(ada))
    assert (refused.value.reason, refused.value.metadata) == ("WRONG_PARTICIPANT", {"asked": "preferences"})
    assert "address that the coordinator has for preferences" in refused.value.message
    assert client.users.GetUser(GetUserRequest(user_id=ada.user_id)).user == ada
    assert eventually(lambda: can_be_written(client, ada))


def test_a_caller_that_leaves_in_the_middle_leaves_nothing_behind(client: Suite, accounts_with: StartAccounts) -> None:
    ada = create_user(client, display_name="Ada")
    hanging = Hanging()  # type: ignore[abstract]
    with serving(hanging) as address:
        suite = accounts_with(address)
        call = suite.accounts.UpdateUserAndPreferences.future(renaming(ada))
        assert hanging.entered.wait(10)
        assert eventually(lambda: not can_be_written(client, ada)), "it is staged with users"
        call.cancel()
        assert hanging.left.wait(10), "the participants are told that nobody waits"
        request = ListTransactionsRequest(page_size=1)
        assert eventually(lambda: bool(suite.transactions.ListTransactions(request).transactions))
        (aborted,) = suite.transactions.ListTransactions(request).transactions
        assert (aborted.state, aborted.abort_reason) == (TRANSACTION_STATE_ABORTED, "CANCELLED")
        assert eventually(lambda: can_be_written(client, ada))
    assert client.users.GetUser(GetUserRequest(user_id=ada.user_id)).user.display_name == "Ada"


def test_a_stop_in_the_middle_of_a_call_leaves_nothing_behind(
    client: Suite, accounts_server_with: StartServer, accounts_with: StartAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handfast.server.chassis.server._INTERRUPT_SECONDS", 10.0)  # a commit may take its time
    ada = create_user(client, display_name="Ada")
    hanging = Hanging()  # type: ignore[abstract]
    with serving(hanging) as address:
        server = accounts_server_with(address)
        with bare_channel(server.address) as channel:
            call: Any = AccountServiceStub(channel).UpdateUserAndPreferences.future(renaming(ada))
            assert hanging.entered.wait(10)
            server.stop()
            error = service_error(call.exception(), "")
        assert (error.reason, error.retryable) == ("SHUTTING_DOWN", True)
        transaction_id = str(dict(error.trailing_metadata())["handfast-transaction-id"])
        request = GetTransactionRequest(transaction_id=transaction_id)
        decided = accounts_with(address).transactions.GetTransaction(request).transaction
        assert (decided.state, decided.abort_reason) == (TRANSACTION_STATE_ABORTED, "SHUTTING_DOWN")
    assert eventually(lambda: can_be_written(client, ada))


def test_what_is_committed_is_finished_though_nobody_reads_it(client: Suite) -> None:
    ada = create_user(client)
    transaction_id = client.accounts.UpdateUserAndPreferences(renaming(ada)).transaction_id

    def finished() -> bool:
        request = GetTransactionRequest(transaction_id=transaction_id)
        transaction = client.transactions.GetTransaction(request).transaction
        return transaction.state == TRANSACTION_STATE_COMMITTED and transaction.HasField("finish_time")

    assert eventually(finished)
    unfinished = client.transactions.ListTransactions(ListTransactionsRequest(unfinished=True)).transactions
    assert transaction_id not in [each.transaction_id for each in unfinished]
