"""What comes after a suite or a channel is closed, or while it is, is refused. Where gRPC would end the process instead
(it does where a method is registered on a closed channel), a process of its own makes the test."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from handfast.client import Aborted, Cancelled, Outcome, OutcomeUnknown, Suite, TransactionMisuse, aio, connect
from handfast.client import Transaction as SynchronousTransaction
from handfast.client.aio.transaction import Transaction
from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub

from .participants import Fakes
from .test_calls import ADA, ADAS, wait
from .test_endings import abort
from .test_interruptions import BOBS, hanging


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Lets a handler go on that a test made wait."""
    released = threading.Event()
    yield released
    released.set()


START = """
import sys, threading
import grpc
from handfast.client import TransactionMisuse, channel, connect
from handfast.client.transactions import reruns, transaction
from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesRequest
from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub

users, preferences, accounts = sys.argv[1:]
suite = connect(users, preferences, accounts, participants={"credits": users})

def refused(error, make, *arguments):
    try:
        make(*arguments)
    except error as refusal:
        assert "closed" in str(refusal), refusal
    else:
        raise AssertionError("not refused")
"""

A_STUB_OF_A_CLOSED_CHANNEL = """
opened = channel(users)
opened.close()
refused(ValueError, UserServiceStub, opened)
for method in (opened.unary_unary, opened.unary_stream, opened.stream_unary, opened.stream_stream):
    refused(ValueError, lambda: method("/other.v1.Service/Method", None, None, _registered_method=True))
"""

STUBS_WHILE_ANOTHER_THREAD_CLOSES = """
def make_stubs(opened, begun):
    for number in range(1_000_000):
        opened.unary_unary(f"/other.v1.Service/Method{number}", None, None, _registered_method=True)
        begun.set()

for _ in range(20):
    opened, begun = channel(users), threading.Event()
    thread = threading.Thread(target=refused, args=[ValueError, make_stubs, opened, begun])
    thread.start()
    begun.wait()
    opened.close()
    thread.join()
"""

A_CALL_ON_A_CLOSED_CHANNEL_WITH_A_TOKEN = """
opened = channel(users, token="abc")
stub = UserServiceStub(opened)
opened.close()
refused(ValueError, stub.GetUser, GetUserRequest(user_id="ada"))
refused(ValueError, stub.GetUser.future, GetUserRequest(user_id="ada"))
"""

A_STUB_OF_A_CLOSED_SUITE = """
suite.close()
refused(ValueError, suite.stub, LockServiceStub, "users")
refused(ValueError, suite.stub, LockServiceStub, "credits")
"""

A_STUB_OF_A_TRANSACTION = """
try:
    with suite.transaction() as tx:
        suite.close()
        refused(TransactionMisuse, lambda: tx.users)
        refused(TransactionMisuse, tx.stub, LockServiceStub, "credits")
except TransactionMisuse:
    pass
refused(TransactionMisuse, suite.transaction().__enter__)
"""

ANOTHER_RUN = """
pause = reruns.Reruns.pause
runs = []

def closing_pause(self, error):
    seconds = pause(self, error)
    if seconds is not None:
        suite.close()
    return seconds

def run(tx):
    runs.append(tx)
    tx.users.UpdateUser(UpdateUserRequest(user=User(user_id="ada")))

reruns.Reruns.pause = closing_pause
refused(TransactionMisuse, suite.transact, run)
assert len(runs) == 1, runs
"""

THE_LOCKS_OF_A_COMMIT = """
commit = transaction.commit

def closing_commit(journal):
    suite.close()
    return commit(journal)

transaction.commit = closing_commit
tx = suite.transaction()

def work():
    with tx:
        tx.users.GetUser(GetUserRequest(user_id="bob"))
        tx.preferences.UpdatePreferences(UpdatePreferencesRequest(preferences=Preferences(user_id="ada")))

refused(TransactionMisuse, work)
assert tx.outcome == "aborted", tx.outcome
"""

SCRIPTS = {
    "a stub of a closed channel": A_STUB_OF_A_CLOSED_CHANNEL,
    "stubs while another thread closes": STUBS_WHILE_ANOTHER_THREAD_CLOSES,
    "a call on a closed channel with a token": A_CALL_ON_A_CLOSED_CHANNEL_WITH_A_TOKEN,
    "a stub of a closed suite": A_STUB_OF_A_CLOSED_SUITE,
    "a stub of a transaction": A_STUB_OF_A_TRANSACTION,
    "another run": ANOTHER_RUN,
    "the locks of a commit": THE_LOCKS_OF_A_COMMIT,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_what_comes_after_closing_is_refused(suite: Fakes, script: str) -> None:
    suite.users.before = abort(
        grpc.StatusCode.ABORTED, "PENDING_CHANGE", method="UpdateUser", again=0.001, resource="users/ada"
    )
    addresses = suite.addresses().values()
    done = subprocess.run(
        [sys.executable, "-c", START + script, *addresses], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_comes_after_closing_an_asyncio_suite_is_refused(suite: Fakes) -> None:
    suite.users.before = abort(
        grpc.StatusCode.ABORTED, "PENDING_CHANGE", method="UpdateUser", again=0.001, resource="users/ada"
    )
    runs = list[Transaction]()

    async def scenario() -> None:
        client = aio.connect(**suite.addresses())

        async def run(tx: Transaction) -> None:
            runs.append(tx)
            try:
                await tx.users.UpdateUser(ADA)
            except Aborted:
                await client.close()
                raise

        with pytest.raises(TransactionMisuse, match="suite was closed"):
            await client.transact(run)
        assert len(runs) == 1
        with pytest.raises(ValueError, match="the suite is closed"):
            client.stub(LockServiceStub, "users")
        with pytest.raises(TransactionMisuse, match="suite was closed"):
            await client.transaction().__aenter__()

    asyncio.run(scenario())


def test_an_asyncio_suite_that_is_closed_during_a_commit_leaves_its_outcome_unknown(
    suite: Fakes, released: threading.Event
) -> None:
    arrived = threading.Event()
    suite.coordinator.before = hanging("CommitTransaction", arrived, released)
    tx, error = closed_when(suite, arrived)
    assert isinstance(error, OutcomeUnknown)
    assert tx.outcome is Outcome.UNKNOWN


def test_an_asyncio_suite_that_is_closed_before_a_commit_is_sent_rolls_back(
    suite: Fakes, released: threading.Event
) -> None:
    arrived = threading.Event()
    suite.users.before = hanging("LockReads", arrived, released)
    tx, error = closed_when(suite, arrived)
    assert isinstance(error, TransactionMisuse)
    assert "suite was closed" in str(error)
    assert tx.outcome is Outcome.ABORTED
    assert "CommitTransaction" not in suite.coordinator.methods()


@pytest.mark.parametrize("is_awaited", [True, False], ids=["in the block", "as the block is left"])
def test_an_asyncio_suite_that_is_closed_during_a_call_says_so(
    suite: Fakes, released: threading.Event, is_awaited: bool
) -> None:
    arrived = threading.Event()
    suite.preferences.before = hanging("UpdatePreferences", arrived, released)
    tx, error = closed_when(suite, arrived, is_awaited)
    assert isinstance(error, Cancelled)
    assert error.message == "The suite was closed while the call was under way."
    assert tx.outcome is Outcome.ABORTED


def test_a_suite_that_is_closed_before_a_commit_is_sent_rolls_back(suite: Fakes, released: threading.Event) -> None:
    arrived, transactions = threading.Event(), list[SynchronousTransaction]()
    suite.users.before = hanging("LockReads", arrived, released)

    def work(client: Suite) -> None:
        with client.transaction() as tx:
            transactions.append(tx)
            tx.users.GetUser(BOBS)
            tx.preferences.UpdatePreferences(ADAS)

    with ThreadPoolExecutor(1) as pool:
        with connect(**suite.addresses()) as client:
            working = pool.submit(work, client)
            wait(arrived)
        with pytest.raises(TransactionMisuse, match="suite was closed"):
            working.result()
    assert transactions[0].outcome is Outcome.ABORTED
    assert "CommitTransaction" not in suite.coordinator.methods()


def closed_when(
    suite: Fakes, arrived: threading.Event, is_awaited: bool = True
) -> tuple[Transaction, BaseException | None]:
    """Closes the suite then, and tells how the transaction of another task ended, which awaits its calls or leaves it
    to the end of the block to wait for the last."""

    async def work(tx: Transaction) -> None:
        async with tx:
            await tx.users.GetUser(BOBS)
            last = tx.preferences.UpdatePreferences(ADAS)
            if is_awaited:
                await last

    async def close() -> tuple[Transaction, BaseException | None]:
        async with aio.connect(**suite.addresses()) as client:
            tx = client.transaction()
            task = asyncio.create_task(work(tx))
            await asyncio.to_thread(wait, arrived)
        await asyncio.wait([task])
        assert not task.cancelled(), "though nobody cancelled it"
        return tx, task.exception()

    return asyncio.run(close())
