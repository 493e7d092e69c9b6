"""GetAccount is never torn, and nobody sees half of an update, while updates run."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from handfast.accounts.v1.accounts_pb2 import Account
from handfast.client import Aborted, Suite
from handfast.preferences.v1.preferences_pb2 import (
    PREFERENCE_TYPE_STRING,
    CreatePreferenceDefinitionRequest,
    PreferenceDefinition,
    Preferences,
)
from handfast.server.accounts import reading
from handfast.server.accounts.errors import AccountInMotion
from handfast.server.accounts.reading import read_account
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from tests.accounts.accounts import create_account, get_account, text, update
from tests.transactions.calls import Transaction

WRITERS, READERS = 4, 3
UPDATES = 25


@pytest.mark.timeout(300)
def test_an_account_is_never_torn_while_it_is_updated(client: Suite) -> None:
    key = f"mark_{random.getrandbits(40):x}".replace("_", "_k")
    definition = PreferenceDefinition(key=key, type=PREFERENCE_TYPE_STRING)
    client.preferences.CreatePreferenceDefinition(CreatePreferenceDefinitionRequest(definition=definition))
    user_id = create_account(client).user.user_id
    done = threading.Event()

    def write(writer: int) -> list[Account]:
        written = []
        for number in range(UPDATES):
            mark = f"{writer}/{number}"
            request = update(User(user_id=user_id, display_name=mark), Preferences(values={key: text(mark)}))
            for _ in range(1000):
                try:
                    written.append(client.accounts.UpdateUserAndPreferences(request).account)
                    break
                except Aborted as error:
                    if not error.retryable:
                        raise
        return written

    def read(_: int) -> list[Account]:
        seen = []
        while not done.is_set():
            try:
                seen.append(get_account(client, user_id))
            except Aborted as error:
                if error.reason != "ACCOUNT_IN_MOTION":
                    raise
        return seen

    with ThreadPoolExecutor(WRITERS + READERS) as pool:
        writers = [pool.submit(write, writer) for writer in range(WRITERS)]
        readers = [pool.submit(read, reader) for reader in range(READERS)]
        written = [account for writer in writers for account in writer.result()]
        done.set()
        seen = [account for reader in readers for account in reader.result()]

    assert len(written) == WRITERS * UPDATES
    assert seen
    for account in seen:
        mark = account.preferences.values[key].string_value if key in account.preferences.values else ""
        assert account.user.display_name == mark, account
    etags = {account.user.etag: account.preferences.etag for account in written}
    last = get_account(client, user_id)
    assert etags[last.user.etag] == last.preferences.etag


class Rounds:
    """A suite on which `act` is done between the reads of the two sides, in the first `rounds` of a reader's rounds."""

    def __init__(self, client: Suite, act: Callable[[int], object], rounds: int) -> None:
        self.count = 0

        def get_user(request: GetUserRequest) -> Any:
            future = client.users.GetUser.future(request)
            future.result()
            self.count += 1
            if self.count <= rounds:
                act(self.count)
            return future

        self.users = SimpleNamespace(GetUser=SimpleNamespace(future=get_user))
        self.preferences = client.preferences


def themed(client: Suite, user_id: str) -> Callable[[int], object]:
    """Changes both sides of an account, by turns to these."""

    def change(number: int) -> object:
        mark = ("dark", "system")[number % 2]
        wanted = update(User(user_id=user_id, display_name=mark), Preferences(values={"theme": text(mark)}))
        return client.accounts.UpdateUserAndPreferences(wanted)

    return change


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_a_change_of_both_sides_between_their_reads_makes_a_reader_read_again(client: Suite, rounds: int) -> None:
    user_id = create_account(client, theme="light", display_name="light").user.user_id
    suite: Any = Rounds(client, themed(client, user_id), rounds)
    account = read_account(suite, user_id, include_defaults=False)
    assert account.user.display_name == account.preferences.values["theme"].string_value != "light"
    assert suite.count == rounds + 1


def test_an_account_that_changes_without_pause_is_not_shown_at_all(client: Suite) -> None:
    user_id = create_account(client).user.user_id
    suite: Any = Rounds(client, themed(client, user_id), reading.ROUNDS)
    with pytest.raises(AccountInMotion):
        read_account(suite, user_id, include_defaults=False)
    assert suite.count == reading.ROUNDS


def test_sides_that_other_transactions_changed_alone_are_shown_when_two_rounds_see_the_same(client: Suite) -> None:
    user_id = create_account(client, display_name="Ada").user.user_id
    alone = Transaction(client)
    wanted = User(user_id=user_id, display_name="Countess")
    alone.stage("users", client.users.UpdateUser, UpdateUserRequest(user=wanted))
    alone.commit()
    suite: Any = Rounds(client, lambda _: None, 0)
    assert read_account(suite, user_id, include_defaults=False).user.display_name == "Countess"
    assert suite.count == 2
