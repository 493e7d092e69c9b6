"""The suite as an asyncio caller sees it: the stubs of its services, each on a well-behaved channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc
from grpc import aio

from handfast.client.addresses import check_participants, resolve_address
from handfast.client.aio.channel import WellBehaved
from handfast.client.arguments import check_timeout
from handfast.client.channel import DEFAULT_TIMEOUT, channel_class
from handfast.client.options import keepalive_on_chassis
from handfast.client.security.given import security_of_suite

if TYPE_CHECKING:  # one class makes both kinds of stub; the names for the asyncio kind are there for type checkers
    from handfast.accounts.v1.accounts_pb2_grpc import AccountServiceAsyncStub
    from handfast.client.aio.transaction import Transaction
    from handfast.client.security.tls import TLS
    from handfast.client.security.tokens import AsyncToken
    from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceAsyncStub
    from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceAsyncStub
    from handfast.users.v1.users_pb2_grpc import UserServiceAsyncStub


Stub = TypeVar("Stub")
Result = TypeVar("Result")


class Suite:
    """Stubs for the services of the suite. An asynchronous context manager, which closes the channels."""

    users: UserServiceAsyncStub
    preferences: PreferencesServiceAsyncStub
    accounts: AccountServiceAsyncStub
    transactions: TransactionServiceAsyncStub

    def __init__(
        self,
        users: aio.Channel,
        preferences: aio.Channel,
        accounts: aio.Channel,
        *,
        open_channel: Callable[[str], aio.Channel] | None = None,
        tracing: bool = False,
    ) -> None:
        # Imported only now: a program that calls other services than these needs no stubs of them.
        from handfast.accounts.v1.accounts_pb2_grpc import AccountServiceStub
        from handfast.client.transactions.services import Services
        from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceStub
        from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub
        from handfast.users.v1.users_pb2_grpc import UserServiceStub

        channels = {"users": users, "preferences": preferences, "accounts": accounts}
        self._services = Services(channels, open_channel, tracing)
        self.users = UserServiceStub(users)
        self.preferences = PreferencesServiceStub(preferences)
        self.accounts = AccountServiceStub(accounts)
        self.transactions = TransactionServiceStub(accounts)  # the accounts server holds the coordinator

    def stub(self, stub_class: Callable[[aio.Channel], Stub], service: str) -> Stub:
        """As `handfast.client.Suite.stub`."""
        return self._services.stub(stub_class, service)

    def transaction(self, timeout: float = 30.0) -> Transaction:
        """As `handfast.client.Suite.transaction`, to be entered by `async with`."""
        from handfast.client.aio.transaction import Transaction
        from handfast.client.transactions.journal import Journal

        return Transaction(self._services, self.transactions, Journal(timeout))

    async def transact(self, function: Callable[[Transaction], Awaitable[Result]], timeout: float = 30.0) -> Result:
        """As `handfast.client.Suite.transact`; what is said of Ctrl-C holds of a cancelled task, too."""
        from handfast.client.aio.transaction import Transaction
        from handfast.client.transactions.reruns import Reruns

        reruns = Reruns(timeout)
        while True:
            try:
                async with Transaction(self._services, self.transactions, reruns.next()) as tx:
                    result = await function(tx)
                return result
            except Exception as error:
                pause = reruns.pause(error)
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """As `handfast.client.Suite.close`. It waits for what rolls back in the background, too; calls still in flight
        end as Cancelled in transactions, and are cancelled elsewhere, as gRPC has it."""
        await asyncio.gather(*(each.end_with_suite() for each in self._services.close()))
        if self._services.background:
            await asyncio.wait(tuple(self._services.background))
        await asyncio.gather(*(each.close() for each in self._services.opened()))

    async def __aenter__(self) -> Suite:
        await asyncio.gather(*(each.__aenter__() for each in self._services.opened()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def connect(
    users: str | None = None,
    preferences: str | None = None,
    accounts: str | None = None,
    *,
    participants: Mapping[str, str] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    tls: TLS | None = None,
    token: AsyncToken | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    interceptors: Sequence[aio.ClientInterceptor] = (),
    tracing: bool = False,
) -> Suite:
    """As `handfast.client.connect`. Call it where an event loop runs: `async with connect() as suite`."""
    addresses = (
        resolve_address("users", users),
        resolve_address("preferences", preferences),
        resolve_address("accounts", accounts),
    )
    others = check_participants(participants)

    security = security_of_suite(credentials, tls, token, may_be_async=True)
    check_timeout(timeout)
    made_by = channel_class(WellBehaved, tracing)

    def open_channel(address: str) -> aio.Channel:
        return made_by(address, security, timeout, interceptors, keepalive_on_chassis(address))

    opened = [open_channel(address) for address in addresses]
    return Suite(
        *opened, open_channel=lambda name: open_channel(resolve_address(name, others.get(name))), tracing=tracing
    )
