"""What goes out within a transaction, and what is refused before it does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from handfast.client import Aborted, DeadlineExceeded, Outcome, TransactionMisuse, aio, connect
from handfast.client.transaction_metadata import DEADLINE, FIRST_ATTEMPT, OPERATION, TRANSACTION_ID
from handfast.client.transactions import minted
from handfast.preferences.v1.preferences_pb2 import (
    CreatePreferenceDefinitionRequest,
    Preferences,
    UpdatePreferencesRequest,
)
from handfast.users.v1.users_pb2 import ListUsersRequest, UpdateUserRequest, User

from .faces import Face
from .participants import Fakes

ADA, BOB = UpdateUserRequest(user=User(user_id="ada")), UpdateUserRequest(user=User(user_id="bob"))
ADAS = UpdatePreferencesRequest(preferences=Preferences(user_id="ada"))


def wait(barrier: threading.Barrier | threading.Event) -> None:
    barrier.wait(20)


def test_writes_are_numbered_for_each_service_and_committed_together(face: Face, suite: Fakes) -> None:
    async def scenario(client: Any) -> None:
        async with client.transaction() as tx:
            assert (await tx.users.UpdateUser(ADA)).user.user_id == "ada"
            await tx.users.UpdateUser(BOB)
            await tx.preferences.UpdatePreferences(ADAS)
        assert tx.outcome is Outcome.COMMITTED
        assert suite.coordinator.decisions == {tx.id: {"users": 2, "preferences": 1}}

    face.run(scenario, **suite.addresses())
    assert suite.users.numbers() == [("UpdateUser", "1"), ("UpdateUser", "2")]
    assert suite.preferences.numbers() == [("UpdatePreferences", "1")]
    for received in suite.users.received:
        assert received.metadata[FIRST_ATTEMPT] == received.metadata[TRANSACTION_ID]
        assert DEADLINE in received.metadata
        assert received.request.request_id == ""


def test_calls_to_one_service_go_out_in_the_order_in_which_they_were_made(face: Face, suite: Fakes) -> None:
    async def scenario(client: Any) -> None:
        async with client.transaction() as tx:
            requests = [UpdateUserRequest(user=User(user_id=f"u{number}")) for number in range(5)]
            calls = [tx.users.UpdateUser(request) for request in requests]
            replies = [await call for call in reversed(calls)]
        assert [reply.user.user_id for reply in replies] == ["u4", "u3", "u2", "u1", "u0"]

    face.run(scenario, **suite.addresses())
    assert [received.request.user.user_id for received in suite.users.received] == ["u0", "u1", "u2", "u3", "u4"]
    assert suite.users.numbers() == [("UpdateUser", str(number)) for number in range(1, 6)]


def test_calls_to_different_services_are_under_way_at_once(face: Face, suite: Fakes) -> None:
    both = threading.Barrier(2, timeout=20)  # passes only if both handlers run at the same time
    suite.users.before = suite.preferences.before = lambda method, context: wait(both)

    async def scenario(client: Any) -> None:
        async with client.transaction() as tx:
            calls = tx.users.UpdateUser(ADA), tx.preferences.UpdatePreferences(ADAS)
            for call in calls:
                await call
        assert tx.outcome is Outcome.COMMITTED

    face.run(scenario, **suite.addresses())


class Streams:
    def __init__(self, channel: Any) -> None:
        self.Count = channel.unary_stream("/coupons.v1.CouponsService/Count")
        self.Spend = channel.unary_unary("/coupons.v1.CouponsService/Spend")


MISUSES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a request id": (
        lambda tx: tx.users.UpdateUser(UpdateUserRequest(user=ADA.user, request_id="r")),
        "UpdateUser: request_id must be empty",
    ),
    "its own metadata": (
        lambda tx: tx.users.UpdateUser(ADA, metadata=((OPERATION, "7"),)),
        "UpdateUser: the metadata handfast-operation is set by the transaction",
    ),
    "nothing": (lambda tx: tx.users.UpdateUser(), "UpdateUser takes a handfast.users.v1.UpdateUserRequest"),
    "an argument that no call has": (lambda tx: tx.users.UpdateUser(ADA, retries=3), "retries"),
    "a time that is none, in its place": (lambda tx: tx.users.UpdateUser(ADA, "10"), "timeout: must be a number"),
    "no request": (lambda tx: tx.users.UpdateUser(None), "UpdateUser takes a handfast.users.v1.UpdateUserRequest"),
    "a request of another type": (
        lambda tx: tx.users.UpdateUser(ADAS),
        "^request: UpdateUser takes a handfast.users.v1.UpdateUserRequest",
    ),
    "no time": (lambda tx: tx.users.UpdateUser(ADA, timeout=float("nan")), "timeout: must be a number"),
    "bad metadata": (lambda tx: tx.users.UpdateUser(ADA, metadata=(("Bad Key", "x"),)), "the key 'Bad Key' must be"),
    "a write that cannot take part": (
        lambda tx: tx.preferences.CreatePreferenceDefinition(CreatePreferenceDefinitionRequest()),
        "CreatePreferenceDefinition cannot take part",
    ),
    "a stream": (lambda tx: tx.stub(Streams, "users").Count(b""), "Count cannot take part"),
    "what has no contract here": (lambda tx: tx.stub(Streams, "users").Spend(b""), "Spend cannot take part"),
}


@pytest.mark.parametrize(("misuse", "says"), MISUSES.values(), ids=MISUSES.keys())
def test_a_mistaken_call_is_refused_before_it_is_sent_and_nothing_is_committed_without_it(
    face: Face, suite: Fakes, misuse: Callable[[Any], Any], says: str
) -> None:
    async def block(tx: Any) -> None:
        await tx.users.UpdateUser(ADA)
        with pytest.raises((TransactionMisuse, TypeError, ValueError), match=says):
            await misuse(tx)
        with pytest.raises(Aborted, match="TRANSACTION_ABORTED"):
            await tx.users.UpdateUser(BOB)

    async def scenario(client: Any) -> None:
        with pytest.raises(Aborted, match="TRANSACTION_ABORTED"):
            async with client.transaction() as tx:
                await block(tx)
        assert suite.coordinator.decisions == {tx.id: None}

    face.run(scenario, **suite.addresses())
    assert suite.users.numbers() == [("UpdateUser", "1")]


@pytest.mark.parametrize(
    "misuse",
    [lambda tx: tx.users.ListUsers(ListUsersRequest()), lambda tx: tx.users.GetUser(None)],
    ids=["what cannot take part", "no request"],
)
def test_a_mistaken_read_is_refused_before_it_is_sent_and_harms_nothing(
    face: Face, suite: Fakes, misuse: Callable[[Any], Any]
) -> None:
    async def scenario(client: Any) -> None:
        async with client.transaction() as tx:
            await tx.users.UpdateUser(ADA)
            with pytest.raises((TransactionMisuse, TypeError)):
                await misuse(tx)
            await tx.users.UpdateUser(BOB)
        assert suite.coordinator.decisions == {tx.id: {"users": 2}}

    face.run(scenario, **suite.addresses())
    assert suite.users.numbers() == [("UpdateUser", "1"), ("UpdateUser", "2")]


def test_a_mistaken_call_outside_of_the_block_changes_nothing_of_its_outcome(face: Face, suite: Fakes) -> None:
    async def scenario(client: Any) -> None:
        async with client.transaction() as tx:
            await tx.users.UpdateUser(ADA)
        with pytest.raises(TypeError):
            await tx.users.UpdateUser(None)
        assert tx.outcome is Outcome.COMMITTED

    face.run(scenario, **suite.addresses())


def test_a_call_before_or_after_the_block_is_refused(face: Face, suite: Fakes) -> None:
    async def scenario(client: Any) -> None:
        async with client.transaction() as tx:
            users = tx.users
            await users.UpdateUser(ADA)
        with pytest.raises(TransactionMisuse, match="is over: it is committed"):
            await users.UpdateUser(BOB)

    face.run(scenario, **suite.addresses())
    with connect(**suite.addresses()) as client, pytest.raises(TransactionMisuse, match="in its block only"):
        client.transaction().users.UpdateUser(ADA)
    assert suite.users.numbers() == [("UpdateUser", "1")]


def test_a_suite_that_is_closed_in_the_block_rolls_back_and_says_so(suite: Fakes) -> None:
    async def closed() -> None:
        client = aio.connect(**suite.addresses())
        with pytest.raises(TransactionMisuse, match="suite was closed"):  # noqa: PT012
            async with client.transaction() as tx:
                await tx.users.UpdateUser(ADA)
                await client.close()
        assert tx.outcome is Outcome.ABORTED

    asyncio.run(closed())
    client = connect(**suite.addresses())
    with pytest.raises(TransactionMisuse, match="suite was closed"), client.transaction() as tx:  # noqa: PT012
        tx.users.UpdateUser(ADA)
        client.close()
    assert tx.outcome is Outcome.ABORTED
    assert list(suite.coordinator.decisions.values()) == [None, None]


def test_a_transaction_is_entered_once(suite: Fakes) -> None:
    async def twice() -> None:
        async with aio.connect(**suite.addresses()) as client, client.transaction() as tx:
            with pytest.raises(TransactionMisuse, match="entered once"):
                async with tx:
                    pass

    asyncio.run(twice())
    with connect(**suite.addresses()) as client:
        with client.transaction() as tx, pytest.raises(TransactionMisuse, match="entered once"), tx:
            pass
        with pytest.raises(TransactionMisuse, match="entered once"), tx:
            pass


def test_transactions_within_one_another_are_apart(face: Face, suite: Fakes) -> None:
    async def scenario(client: Any) -> None:
        async with client.transaction() as outer:
            await outer.users.UpdateUser(ADA)
            async with client.transaction() as inner:
                await inner.users.UpdateUser(BOB)
            assert suite.coordinator.decisions == {inner.id: {"users": 1}}
        assert suite.coordinator.decisions == {inner.id: {"users": 1}, outer.id: {"users": 1}}
        assert outer.id < inner.id

    face.run(scenario, **suite.addresses())


@pytest.mark.parametrize("timeout", [0, -1, 301, "1", float("nan")])
def test_a_timeout_that_cannot_be_is_refused(face: Face, suite: Fakes, timeout: Any) -> None:
    async def scenario(client: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=r"^timeout: "):
            async with client.transaction(timeout=timeout):
                pass
        with pytest.raises((ValueError, TypeError), match=r"^timeout: "):
            await client.transact(None, timeout=timeout)

    face.run(scenario, **suite.addresses())
    assert suite.coordinator.received == []


def test_calls_end_with_the_transaction_at_the_latest(face: Face, suite: Fakes) -> None:
    async def hangs(client: Any) -> None:
        async with client.transaction(timeout=0.2) as tx:
            transactions.append(tx)
            await tx.users.UpdateUser(ADA, timeout=100)

    async def scenario(client: Any) -> None:
        with pytest.raises(DeadlineExceeded):
            await hangs(client)
        assert transactions[0].outcome is Outcome.ABORTED

    transactions: list[Any] = []
    released = threading.Event()
    suite.users.before = lambda method, context: wait(released)
    face.run(scenario, **suite.addresses())
    released.set()


def test_services_are_told_the_deadline(face: Face, suite: Fakes) -> None:
    async def scenario(client: Any) -> None:
        async with client.transaction(timeout=60) as tx:
            await tx.users.UpdateUser(ADA, timeout=100)

    face.run(scenario, **suite.addresses())
    (received,) = suite.users.received
    assert received.time_remaining < 61
    told = datetime.fromisoformat(str(received.metadata[DEADLINE]))
    assert timedelta(seconds=0) < told - datetime.now(UTC) < timedelta(seconds=61)


def test_nothing_is_asked_for_a_transaction_without_calls(face: Face, suite: Fakes) -> None:
    async def scenario(client: Any) -> None:
        async with client.transaction() as tx:
            pass
        assert (tx.id, tx.outcome) == ("", Outcome.COMMITTED)

    face.run(scenario, **suite.addresses())
    assert suite.coordinator.received == []


def test_a_busy_caller_gets_ids_ahead(face: Face, suite: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minted, "FRESH_SECONDS", 100.0)  # the machine may pause

    async def scenario(client: Any) -> None:
        ids = []
        for _ in range(10):
            async with client.transaction() as tx:
                await tx.users.UpdateUser(ADA)
            ids.append(tx.id)
        assert len(set(ids)) == 10
        assert ids == sorted(ids)

    face.run(scenario, **suite.addresses())
    assert suite.coordinator.methods().count("BeginTransaction") == 2
    deadlines = {str(received.metadata[DEADLINE]) for received in suite.users.received}
    assert len(deadlines) == 10


def test_an_id_that_is_not_fresh_any_more_is_not_used(
    face: Face, suite: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(client: Any) -> None:
        for _ in range(3):
            async with client.transaction() as tx:
                await tx.users.UpdateUser(ADA)
        monkeypatch.setattr(minted, "FRESH_SECONDS", -1.0)
        async with client.transaction() as tx:
            await tx.users.UpdateUser(ADA)
        assert suite.coordinator.methods()[-2:] == ["BeginTransaction", "CommitTransaction"]

    face.run(scenario, **suite.addresses())


FORKED = """
import os
from handfast.client.transactions.minted import MintedIds
from handfast.transactions.v1.transactions_pb2 import BeginTransactionResponse, Transaction
from time import monotonic

ids = MintedIds()
ids.add(BeginTransactionResponse(further=[Transaction(transaction_id="ahead")]), monotonic() + 1000)
pid = os.fork()
minted = ids.take()
if pid:
    os.waitpid(pid, 0)
print("parent" if pid else "child", minted and minted.transaction_id)
"""


def test_a_process_that_was_forked_uses_no_ids_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["child None", "parent ahead"]
