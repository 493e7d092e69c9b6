"""The suite as an asyncio caller sees it: the stubs of its services, each on a well-behaved channel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
from grpc import aio

from handfast.client.addresses import resolve_address
from handfast.client.aio.channel import channel
from handfast.client.channel import DEFAULT_TIMEOUT

if TYPE_CHECKING:  # one class makes both kinds of stub; the names for the asyncio kind are there for type checkers
    from handfast.accounts.v1.accounts_pb2_grpc import AccountServiceAsyncStub
    from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceAsyncStub
    from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceAsyncStub
    from handfast.users.v1.users_pb2_grpc import UserServiceAsyncStub


class Suite:
    """Stubs for the services of the suite. An asynchronous context manager, which closes the channels."""

    users: UserServiceAsyncStub
    preferences: PreferencesServiceAsyncStub
    accounts: AccountServiceAsyncStub
    transactions: TransactionServiceAsyncStub

    def __init__(self, users: aio.Channel, preferences: aio.Channel, accounts: aio.Channel) -> None:
        # Imported only now: a program that calls other services than these needs no stubs of them.
        from handfast.accounts.v1.accounts_pb2_grpc import AccountServiceStub
        from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceStub
        from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub
        from handfast.users.v1.users_pb2_grpc import UserServiceStub

        self._channels = (users, preferences, accounts)
        self.users = UserServiceStub(users)
        self.preferences = PreferencesServiceStub(preferences)
        self.accounts = AccountServiceStub(accounts)
        self.transactions = TransactionServiceStub(accounts)  # the accounts server holds the coordinator

    async def close(self) -> None:
        """Closes the channels; calls still in flight are cancelled."""
        await asyncio.gather(*(each.close() for each in self._channels))

    async def __aenter__(self) -> Suite:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def connect(
    users: str | None = None,
    preferences: str | None = None,
    accounts: str | None = None,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    interceptors: Sequence[aio.ClientInterceptor] = (),
) -> Suite:
    """As `handfast.client.connect`. Call it where an event loop runs: `async with connect() as suite`."""
    addresses = (
        resolve_address("users", users),
        resolve_address("preferences", preferences),
        resolve_address("accounts", accounts),
    )
    return Suite(
        *(
            channel(address, credentials=credentials, timeout=timeout, interceptors=interceptors)
            for address in addresses
        )
    )
