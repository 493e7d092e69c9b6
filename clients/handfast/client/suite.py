"""The suite as a synchronous caller sees it: the stubs of its services, each on a well-behaved channel."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc

from handfast.client.addresses import check_participants, resolve_address
from handfast.client.arguments import check_timeout
from handfast.client.channel import DEFAULT_TIMEOUT, Interceptor, WellBehaved, channel_class
from handfast.client.options import keepalive_on_chassis
from handfast.client.security.given import security_of_suite

if TYPE_CHECKING:
    from handfast.accounts.v1.accounts_pb2_grpc import AccountServiceStub
    from handfast.client.security.tls import TLS
    from handfast.client.security.tokens import Token
    from handfast.client.transactions.transaction import Transaction
    from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceStub
    from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub
    from handfast.users.v1.users_pb2_grpc import UserServiceStub


Stub = TypeVar("Stub")
Result = TypeVar("Result")


class Suite:
    """Stubs for the services of the suite. A context manager, which closes the channels; usable from any thread."""

    users: UserServiceStub
    preferences: PreferencesServiceStub
    accounts: AccountServiceStub
    transactions: TransactionServiceStub

    def __init__(
        self,
        users: grpc.Channel,
        preferences: grpc.Channel,
        accounts: grpc.Channel,
        *,
        open_channel: Callable[[str], grpc.Channel] | None = None,
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

    def stub(self, stub_class: Callable[[grpc.Channel], Stub], service: str) -> Stub:
        """A stub of a team's own service: `suite.stub(CreditsServiceStub, "credits")`. The channel to it is as those of
        the suite's services, and closed with them. Raises ValueError where its address is not known, or the suite is
        closed."""
        return self._services.stub(stub_class, service)

    def transaction(self, timeout: float = 30.0) -> Transaction:
        """A transaction over several services, to be entered by `with`. It has up to `timeout` seconds, 300 at the
        most, until its block is left; all its calls end by then. Raises ValueError or TypeError on another timeout."""
        from handfast.client.transactions.journal import Journal
        from handfast.client.transactions.transaction import Transaction

        return Transaction(self._services, self.transactions, Journal(timeout))

    def transact(self, function: Callable[[Transaction], Result], timeout: float = 30.0) -> Result:
        """Calls `function` with a transaction, commits, and returns what it returned.

        Where the transaction meets another one, or a service is away, all is rolled back and `function` called again,
        after a pause, for `timeout` seconds in all. What it does besides calling in the transaction it does again, too.
        Raises the last error of the transaction when the time is up, what can not be helped by trying again,
        OutcomeUnknown (see Transaction), and what `function` raises by itself. Raises TransactionMisuse where it is a
        coroutine function or a generator function, which does nothing when it is called. Ctrl-C may come during the
        commit: a note of the exception then names the transaction where it is or may be committed.
        """
        from handfast.client.transactions.reruns import Reruns, check_result
        from handfast.client.transactions.transaction import Transaction

        reruns = Reruns(timeout)
        while True:
            try:
                with Transaction(self._services, self.transactions, reruns.next()) as tx:
                    return check_result(function(tx))
            except Exception as error:
                pause = reruns.pause(error)
                if pause is None:
                    raise
            time.sleep(pause)

    def close(self) -> None:
        """Rolls back the transactions that are open in other threads, or around the call, for 2 seconds at the most,
        and closes the channels. Calls still in flight end as Cancelled; leaving the block of a transaction that was
        rolled back so raises TransactionMisuse.
        """
        from handfast.client.transactions.ending import ROLL_BACK_SECONDS

        until_s = time.monotonic() + ROLL_BACK_SECONDS
        for transaction in self._services.close():
            transaction.end_with_suite(until_s)
        for each in self._services.opened():
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
    participants: Mapping[str, str] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    tls: TLS | None = None,
    token: Token | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    interceptors: Sequence[Interceptor] = (),
    tracing: bool = False,
) -> Suite:
    """The suite at these addresses; nothing is connected until the first call.

    An address left out comes from HANDFAST_USERS_ADDRESS, HANDFAST_PREFERENCES_ADDRESS or
    HANDFAST_ACCOUNTS_ADDRESS, else it is the default port on this machine. `participants` are the addresses of a team's
    own services, by the names that the coordinator knows them by; that of `credits` can come from
    HANDFAST_CREDITS_ADDRESS. Addresses are those of `channel`, and may each stand for several servers. `timeout` in
    seconds is for calls that give none. `tls`, `token`, `credentials` and `interceptors` are as for `channel`; one
    function gives the token for all channels. Where neither `tls` nor `credentials` are given, TLS comes from the files
    that HANDFAST_CA, HANDFAST_CERTIFICATE and HANDFAST_KEY name, and a token that is not given from the file that
    HANDFAST_TOKEN_FILE names, if they do. With `tracing` calls are traced as by `channel`, and each transaction is a
    span around its calls.

    Raises ValueError or TypeError, naming the setting, on what cannot be an address, a timeout or any of these.
    """
    addresses = (
        resolve_address("users", users),
        resolve_address("preferences", preferences),
        resolve_address("accounts", accounts),
    )
    others = check_participants(participants)

    security = security_of_suite(credentials, tls, token)
    check_timeout(timeout)
    made_by = channel_class(WellBehaved, tracing)

    def open_channel(address: str) -> grpc.Channel:
        return made_by(address, security, timeout, interceptors, keepalive_on_chassis(address))

    opened = [open_channel(address) for address in addresses]
    return Suite(
        *opened, open_channel=lambda name: open_channel(resolve_address(name, others.get(name))), tracing=tracing
    )
