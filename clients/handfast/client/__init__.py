"""Calls the services of the suite, or any other gRPC service, through generated stubs on well-behaved channels.

    from handfast.client import NotFound, connect
    from handfast.users.v1.users_pb2 import GetUserRequest

    with connect() as suite:
        try:
            user = suite.users.GetUser(GetUserRequest(user_id="ada")).user
        except NotFound as error:
            print(error.reason, error.request_id)

Such a channel gives each call a deadline and a request id, repeats it on UNAVAILABLE where its contract makes
that safe, raises typed errors, and gives up a connection that goes silent for another. It needs nothing for a new
method or service: `SomeStub(channel("host:50051"))`.

suite.py                 `connect`, `Suite`: the suite's own services
channel.py               `channel`: the same for any address
errors.py                `ServiceError` and its subclasses, one for each status code
aio/                     `connect`, `Suite` and `channel` for asyncio
propagation.py           what servers hand on to the calls they make: request id, trace, deadline
transaction_metadata.py  the metadata keys of calls within a transaction
protos.py                where the contracts are, for contracts of your own that import them

and behind them
addresses.py             where the services are
arguments.py             what may be given with a channel or a call
methods.py               what happens to each call on its way out
options.py               how gRPC is set up: retries, signs of life, proxies
multicallables.py        what `stub.Method` is on a synchronous channel
failed_call.py           an error as a call that is over, which interceptors look at
calls.py                 what a synchronous call gives back before it is over
begun_call.py            a call that is begun beside others, and waited for
"""

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

__all__ = [
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
    "OutcomeUnknown",
    "PermissionDenied",
    "ResourceExhausted",
    "ServiceError",
    "Suite",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "channel",
    "connect",
]
