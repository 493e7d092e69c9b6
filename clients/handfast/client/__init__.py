"""Calls the services of the suite, or any other gRPC service, through generated stubs on well-behaved channels.

    from handfast.client import NotFound, connect
    from handfast.users.v1.users_pb2 import GetUserRequest

    with connect() as suite:
        try:
            user = suite.users.GetUser(GetUserRequest(user_id="ada")).user
        except NotFound as error:
            print(error.reason, error.request_id)

Such a channel gives each call a deadline and a request id, repeats it on UNAVAILABLE where its contract makes
that safe, raises typed errors, goes round the replicas of a server, and gives up a connection that goes silent for
another. It needs nothing for a new method or service: `SomeStub(channel("host:50051"))`.

    with suite.transaction() as tx:  # commits where its block is left, and rolls back where that is by an exception
        user = tx.users.GetUser(GetUserRequest(user_id="ada")).user
        tx.preferences.UpdatePreferences(...)

suite.py                 `connect`, `Suite`: the suite's own services, a team's own, and transactions over them
channel.py               `channel`: the same for any address
errors.py                `ServiceError` and its subclasses, one for each status code
security/                `TLS`, and the token that calls carry
transactions/            `Transaction`: what is called in it takes effect together or not at all
aio/                     `connect`, `Suite`, `Transaction` and `channel` for asyncio
tracing/                 spans of OpenTelemetry, where calls are traced
propagation.py           what servers hand on to the calls they make: request id, trace, deadline, caller
transaction_metadata.py  the metadata keys of calls within a transaction
protos.py                where the contracts are, for contracts of your own that import them

and behind them
addresses.py             where the services are
replicas.py              which servers an address stands for now
generation.py            moves a channel on when these change
arguments.py             what may be given with a channel or a call
methods.py               what happens to each call on its way out
closing.py               keeps what is closed from crashing the process
options.py               how gRPC is set up: retries, health checks, signs of life, proxies
proxy.py                 which addresses are reached by a proxy
multicallables.py        what `stub.Method` is on a synchronous channel
failed_call.py           an error as a call that is over, which interceptors look at
calls.py                 what a synchronous call gives back before it is over
begun_call.py            a call that is begun beside others, and waited for
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from handfast.client.channel import channel
from handfast.client.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    ServiceError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
)
from handfast.client.suite import Suite, connect

if TYPE_CHECKING:
    from handfast.client.security.tls import TLS
    from handfast.client.transactions.errors import TransactionMisuse
    from handfast.client.transactions.journal import Outcome
    from handfast.client.transactions.transaction import Transaction

__all__ = [
    "TLS",
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "Outcome",
    "OutcomeUnknown",
    "PermissionDenied",
    "ResourceExhausted",
    "ServiceError",
    "Suite",
    "Transaction",
    "TransactionMisuse",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "channel",
    "connect",
]

_LOADED_LATER = {
    "TLS": "security.tls",
    "Outcome": "transactions.journal",
    "Transaction": "transactions.transaction",
    "TransactionMisuse": "transactions.errors",
}


def __getattr__(name: str) -> Any:
    """Loads TLS and what is of transactions when it is first used."""
    if name not in _LOADED_LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"handfast.client.{_LOADED_LATER[name]}"), name)
