"""A user whose token has the scope `self` runs whole transactions on what is its own, by each client."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from handfast.client import PermissionDenied, Transaction, aio, connect
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest
from handfast.server.chassis.ids import new_id
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User
from tests.people import new_email
from tests.security.enforced import ISSUER, OF_CALLERS, Place, as_caller

WRITER = as_caller("writer")


@pytest.fixture
def user_id(place: Place) -> str:
    """Of a user."""
    created = place[0].users.CreateUser(CreateUserRequest(user=User(email=new_email())), metadata=WRITER)
    return created.user.user_id


def renaming(user_id: str, name: str) -> UpdateUserRequest:
    request = UpdateUserRequest(user=User(user_id=user_id, display_name=name))
    request.update_mask.paths.append("display_name")
    return request


def token_of(user_id: str) -> str:
    """As `dev-user.token` has it."""
    return ISSUER.token(user_id, ("self", "transactions.run"))


def shown(place: Place, user_id: str) -> str:
    return place[0].users.GetUser(GetUserRequest(user_id=user_id), metadata=WRITER).user.display_name


def test_one_that_reads_and_writes_is_run_again_where_another_was_faster(place: Place, user_id: str) -> None:
    client, addresses = place
    attempts = 0

    def work(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        before = tx.users.GetUser(GetUserRequest(user_id=user_id)).user.display_name
        tx.preferences.GetPreferences(GetPreferencesRequest(user_id=user_id))  # to be locked
        if attempts == 1:
            client.users.UpdateUser(renaming(user_id, "first"), metadata=WRITER)
        tx.users.UpdateUser(renaming(user_id, f"{before} and second"))

    with connect(**addresses, token=token_of(user_id)) as own:
        own.transact(work)
        seen = own.transact(lambda tx: tx.users.GetUser(GetUserRequest(user_id=user_id)).user.display_name)
    assert (attempts, seen) == (2, "first and second")


def test_the_same_by_the_client_for_asyncio(place: Place, user_id: str) -> None:
    client, addresses = place
    attempts = 0

    async def work(tx: aio.Transaction) -> None:
        nonlocal attempts
        attempts += 1
        before = (await tx.users.GetUser(GetUserRequest(user_id=user_id))).user.display_name
        await tx.preferences.GetPreferences(GetPreferencesRequest(user_id=user_id))
        if attempts == 1:
            client.users.UpdateUser(renaming(user_id, "first"), metadata=WRITER)
        await tx.users.UpdateUser(renaming(user_id, f"{before} and second"))

    async def read(tx: aio.Transaction) -> Any:
        return (await tx.users.GetUser(GetUserRequest(user_id=user_id))).user.display_name

    async def main() -> Any:
        async with aio.connect(**addresses, token=token_of(user_id)) as own:
            await own.transact(work)
            return await own.transact(read)

    assert asyncio.run(main()) == "first and second"
    assert attempts == 2


def test_nothing_of_anothers_is_read_or_written_in_one(place: Place, user_id: str) -> None:
    with connect(**place[1], token=token_of(new_id())) as other:
        for call in (
            lambda tx: tx.users.GetUser(GetUserRequest(user_id=user_id)),
            lambda tx: tx.users.UpdateUser(renaming(user_id, "stranger")),
        ):
            with pytest.raises(PermissionDenied):
                other.transact(call)
    assert shown(place, user_id) == ""


@pytest.mark.parametrize("is_asyncio", [False, True], ids=["synchronous", "asyncio"])
def test_who_may_write_but_not_lock_is_run_again_without_locking_first(
    place: Place, user_id: str, is_asyncio: bool
) -> None:
    _, addresses = place
    attempts = 0
    token = ISSUER.token("writes-only", ("users.write", "transactions.run"))
    with connect(**addresses, token=ISSUER.token("other", OF_CALLERS)) as other, ExitStack() as held:
        held.enter_context(other.transaction()).users.UpdateUser(renaming(user_id, "first"))

        def attempt() -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 2:
                held.close()

        def work(tx: Transaction) -> None:
            attempt()
            tx.users.UpdateUser(renaming(user_id, "second"))

        async def async_work(tx: aio.Transaction) -> None:
            attempt()
            await tx.users.UpdateUser(renaming(user_id, "second"))

        async def main() -> None:
            async with aio.connect(**addresses, token=token) as own:
                await own.transact(async_work)

        if is_asyncio:
            asyncio.run(main())
        else:
            with connect(**addresses, token=token) as own:
                own.transact(work)
    assert attempts == 2
    assert shown(place, user_id) == "second"
