"""Transactions of the client on a real suite, on both databases."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.client import Aborted, AlreadyExists, NotFound, Outcome, Suite, Transaction, TransactionMisuse, aio
from handfast.preferences.v1.preferences_pb2 import (
    BatchGetPreferencesRequest,
    GetPreferencesRequest,
    Preferences,
    UpdatePreferencesRequest,
)
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.users.v1.users_pb2 import (
    BatchGetUsersRequest,
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    UpdateUserRequest,
    User,
)
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.people import create_user, new_email, new_id

from .faces import Face
from .test_endings import leave


@pytest.fixture
def ada(client: Suite) -> str:
    return create_user(client, display_name="before").user_id


@pytest.fixture
def bob(client: Suite) -> str:
    return create_user(client, display_name="before").user_id


def named(user_id: str, name: str) -> UpdateUserRequest:
    return UpdateUserRequest(
        user=User(user_id=user_id, display_name=name), update_mask=FieldMask(paths=["display_name"])
    )


def theme(user_id: str, value: str) -> UpdatePreferencesRequest:
    return UpdatePreferencesRequest(
        preferences=Preferences(user_id=user_id, values={"theme": Value(string_value=value)})
    )


def get(user_id: str) -> GetUserRequest:
    return GetUserRequest(user_id=user_id)


def state(client: Suite, user_id: str) -> tuple[str, str]:
    """The user's name and theme, as everybody sees them."""
    preferences = client.preferences.GetPreferences(GetPreferencesRequest(user_id=user_id)).preferences
    return client.users.GetUser(get(user_id)).user.display_name, preferences.values["theme"].string_value


def test_what_was_written_becomes_visible_together(
    face: Face, client: Suite, addresses: dict[str, Any], ada: str
) -> None:
    async def scenario(suite: Any) -> None:
        async with suite.transaction() as tx:
            assert (await tx.users.UpdateUser(named(ada, "after"))).user.display_name == "after"
            await tx.preferences.UpdatePreferences(theme(ada, "dark"))
            assert (await tx.users.GetUser(get(ada))).user.display_name == "after"  # its own write
            assert state(client, ada) == ("before", "")
        assert state(client, ada) == ("after", "dark")
        told = client.transactions.GetTransaction(pb.GetTransactionRequest(transaction_id=tx.id)).transaction
        assert told.state == pb.TRANSACTION_STATE_COMMITTED

    face.run(scenario, **addresses)


def test_a_refusal_leaves_both_sides_untouched(face: Face, client: Suite, addresses: dict[str, Any], ada: str) -> None:
    taken = client.users.GetUser(get(ada)).user.email
    key = new_id()

    async def body(tx: Any) -> None:
        await tx.preferences.UpdatePreferences(theme(key, "dark"))
        await tx.users.CreateUser(CreateUserRequest(user=User(user_id=key, email=taken)))

    async def scenario(suite: Any) -> None:
        tx, error = await leave(suite, body)
        assert isinstance(error, AlreadyExists)
        assert error.reason == "EMAIL_TAKEN"
        assert tx.outcome is Outcome.ABORTED
        assert client.preferences.GetPreferences(GetPreferencesRequest(user_id=key)).preferences.values == {}
        told = client.transactions.GetTransaction(pb.GetTransactionRequest(transaction_id=tx.id)).transaction
        assert (told.state, told.abort_reason) == (pb.TRANSACTION_STATE_ABORTED, "EMAIL_TAKEN")

    face.run(scenario, **addresses)


def test_what_it_creates_reads_changes_and_deletes_is_its_own_until_the_end(
    face: Face, client: Suite, addresses: dict[str, Any]
) -> None:
    async def scenario(suite: Any) -> None:
        key, other = new_id(), new_id()
        async with suite.transaction() as tx:
            users = tx.stub(UserServiceStub, "users")
            for user_id in (key, other):
                await users.CreateUser(CreateUserRequest(user=User(user_id=user_id, email=new_email())))
            await users.UpdateUser(named(key, "mine"))
            await users.DeleteUser(DeleteUserRequest(user_id=other))
            found = await users.BatchGetUsers(BatchGetUsersRequest(user_ids=[key, other]))
            assert [user.display_name for user in found.users] == ["mine"]
            with pytest.raises(NotFound):
                client.users.GetUser(get(key))
        assert client.users.GetUser(get(key)).user.display_name == "mine"
        with pytest.raises(NotFound):
            client.users.GetUser(get(other))

    face.run(scenario, **addresses)


def test_write_skew_over_two_services_is_refused(
    face: Face, client: Suite, addresses: dict[str, Any], ada: str
) -> None:
    """Each reads what the other one writes: at least one of them has to make way."""

    async def scenario(suite: Any) -> None:
        errors: list[BaseException | None] = []

        async def outer(tx: Any) -> None:
            await tx.preferences.GetPreferences(GetPreferencesRequest(user_id=ada))
            _, error = await leave(suite, inner)
            errors.append(error)
            await tx.users.UpdateUser(named(ada, "outer"))

        async def inner(tx: Any) -> None:
            await tx.users.GetUser(get(ada))
            await tx.preferences.UpdatePreferences(theme(ada, "dark"))

        _, error = await leave(suite, outer)
        errors.append(error)
        assert errors[0] is None
        assert isinstance(errors[1], Aborted)
        assert (errors[1].reason, errors[1].retryable) == ("READ_CHANGED", True)
        assert state(client, ada) == ("before", "dark")

    face.run(scenario, **addresses)


def test_a_transaction_that_only_reads_sees_one_state(
    face: Face, client: Suite, addresses: dict[str, Any], ada: str, bob: str
) -> None:
    async def scenario(suite: Any) -> None:
        async def read(tx: Any) -> tuple[str, str]:
            runs.append(tx)
            first = (await tx.users.GetUser(get(ada))).user.display_name
            if len(runs) == 1:
                with client.transaction() as writing:
                    writing.users.UpdateUser(named(ada, "after"))
                    writing.preferences.UpdatePreferences(theme(ada, "dark"))
            second = await tx.preferences.BatchGetPreferences(BatchGetPreferencesRequest(user_ids=[ada]))
            return first, second.preferences[0].values["theme"].string_value

        runs: list[Any] = []
        assert await suite.transact(read) == ("after", "dark")
        assert len(runs) == 2
        told = client.transactions.GetTransaction(pb.GetTransactionRequest(transaction_id=runs[1].id)).transaction
        assert told.state == pb.TRANSACTION_STATE_UNDECIDED  # it took no locks, so nobody was asked to decide

    face.run(scenario, **addresses)


CLIENTS, TURNS = 4, 5


def count(before: str) -> str:
    return str(int(before if before.isdigit() else 0) + 1)


def test_no_change_of_threads_that_contend_is_lost(client: Suite, ada: str, bob: str) -> None:
    def run() -> None:
        for turn in range(TURNS):
            try:
                client.transact(partial(turn_of, key=(ada, bob)[turn % 2]), timeout=100)
            except Exception as error:
                failed.append(error)

    def turn_of(tx: Transaction, key: str) -> None:
        name = count(tx.users.GetUser(get(key)).user.display_name)
        tx.preferences.UpdatePreferences.future(theme(key, "dark"))
        tx.users.UpdateUser(named(key, name))

    failed: list[Exception] = []
    threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sum(int(state(client, key)[0]) for key in (ada, bob)) == CLIENTS * TURNS


def test_no_change_of_tasks_that_contend_is_lost(client: Suite, addresses: dict[str, Any], ada: str) -> None:
    async def turn_of(tx: aio.Transaction) -> None:
        user = (await tx.users.GetUser(get(ada))).user
        await asyncio.gather(
            tx.users.UpdateUser(named(ada, count(user.display_name))),
            tx.preferences.UpdatePreferences(theme(ada, "dark")),
        )

    async def run() -> None:
        async with aio.connect(**addresses) as suite:
            await asyncio.gather(*(suite.transact(turn_of, timeout=100) for _ in range(CLIENTS * TURNS)))

    asyncio.run(run())
    assert state(client, ada)[0] == str(CLIENTS * TURNS)


def test_a_transaction_that_thinks_gets_through_beside_quick_writers_at_its_second_attempt(
    face: Face, client: Suite, addresses: dict[str, Any], ada: str, bob: str
) -> None:
    attempts: list[Any] = []

    async def body(tx: Any) -> None:
        attempts.append(tx)
        read, written = (await tx.users.GetUser(get(bob))).user, (await tx.users.GetUser(get(ada))).user
        if len(attempts) == 1:
            client.users.UpdateUser(named(ada, "1"))
        elif len(attempts) == 2:
            client.users.UpdateUser(named(bob, "1"))
        else:
            for user_id in (ada, bob):
                with pytest.raises(Aborted, match="PENDING_CHANGE"):
                    client.users.UpdateUser(named(user_id, "2"))
        await tx.users.UpdateUser(named(ada, f"{written.display_name} and {read.display_name}"))

    face.run(lambda suite: suite.transact(body), **addresses)
    assert len(attempts) == 3, "one for each that was in the way"
    assert state(client, ada)[0] == "1 and 1"


def test_a_write_after_somebody_else_has_rolled_back_is_told_so_as_the_commit_is(
    face: Face, client: Suite, addresses: dict[str, Any], ada: str, bob: str
) -> None:
    async def write_on(tx: Any) -> None:
        await tx.users.UpdateUser(named(ada, "after"))
        request = pb.RollbackTransactionRequest(transaction_id=tx.id, participants=["users"])
        client.transactions.RollbackTransaction(request)
        client.users.UpdateUser(named(ada, "somebody else's"))  # which sees to it that the service knows
        await tx.users.UpdateUser(named(bob, "after"))

    async def scenario(suite: Any) -> None:
        tx, error = await leave(suite, write_on)
        assert isinstance(error, Aborted)
        assert (error.service, error.reason, error.retryable) == ("handfast.transactions", "TRANSACTION_ABORTED", False)
        assert (error.metadata, tx.outcome) == ({"transaction_id": tx.id}, Outcome.ABORTED)

    face.run(scenario, **addresses)


def test_closing_the_suite_frees_what_an_open_transaction_has_written(
    face: Face, client: Suite, addresses: dict[str, Any], ada: str
) -> None:
    async def scenario(suite: Any) -> None:
        with pytest.raises(TransactionMisuse, match="suite was closed"):  # noqa: PT012
            async with suite.transaction() as tx:
                await tx.users.UpdateUser(named(ada, "in the transaction"))
                await suite.close()
                client.users.UpdateUser(named(ada, "after"))
        assert tx.outcome is Outcome.ABORTED

    face.run(scenario, **addresses)
    assert state(client, ada)[0] == "after"
