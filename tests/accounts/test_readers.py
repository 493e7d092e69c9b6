"""GetAccount is never torn, and nobody sees half of an update, while updates run."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from handfast.accounts.v1.accounts_pb2 import Account
from handfast.client import Aborted, Suite
from handfast.preferences.v1.preferences_pb2 import (
    PREFERENCE_TYPE_STRING,
    CreatePreferenceDefinitionRequest,
    PreferenceDefinition,
    Preferences,
)
from handfast.users.v1.users_pb2 import User
from tests.accounts.accounts import create_account, get_account, text, update

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
