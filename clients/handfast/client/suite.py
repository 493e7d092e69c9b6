"""The suite as a synchronous caller sees it: the stubs of its services, each on a well-behaved channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from handfast.client.addresses import resolve_address
from handfast.client.channel import DEFAULT_TIMEOUT, Interceptor, channel

if TYPE_CHECKING:
    from handfast.accounts.v1.accounts_pb2_grpc import AccountServiceStub
    from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceStub
    from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub
    from handfast.users.v1.users_pb2_grpc import UserServiceStub


class Suite:
    """Stubs for the services of the suite. A context manager, which closes the channels; usable from any thread."""

    users: UserServiceStub
    preferences: PreferencesServiceStub
    accounts: AccountServiceStub
    transactions: TransactionServiceStub

    def __init__(self, users: grpc.Channel, preferences: grpc.Channel, accounts: grpc.Channel) -> None:
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

    def close(self) -> None:
        """Closes the channels; calls still in flight end as Cancelled."""
        for each in self._channels:
            each.close()

    def __enter__(self) -> Suite:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    users: str | None = None,
    preferences: str | None = None,
    accounts: str | None = None,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    interceptors: Sequence[Interceptor] = (),
) -> Suite:
    """The suite at these addresses; nothing is connected until the first call.

    An address left out comes from HANDFAST_USERS_ADDRESS, HANDFAST_PREFERENCES_ADDRESS or
    HANDFAST_ACCOUNTS_ADDRESS, else it is the default port on this machine. Addresses are those of gRPC:
    `host:port`, `dns:///host:port`, …; calls go round all servers that a name stands for. `timeout` in seconds
    is for calls that give none. Without `credentials` it speaks plain text. `interceptors` are as for `channel`.

    Raises ValueError or TypeError, naming the setting, on what cannot be an address, a timeout or credentials.
    """
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
