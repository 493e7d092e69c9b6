"""Ends a call with an error. Whatever a handler or an interceptor raises reaches the caller through here."""

from __future__ import annotations

from typing import Never

import grpc
from grpc_status import rpc_status

from handfast.server.chassis.call import Call
from handfast.server.chassis.errors import UnknownMethod
from handfast.server.chassis.errors.mapping import to_status
from handfast.server.chassis.errors.status import trailers_beside


def end_with(error: BaseException, call: Call, context: grpc.ServicerContext) -> Never:
    """Ends the call with the status that `mapping.py` makes of `error`. Always raises, since that is how grpcio ends a
    call early. The request id is added to the trailers when the handler ends, as in every call."""
    code = context.code()  # type: ignore[attr-defined]  # its stubs leave it out
    if type(error) is grpc.RpcError or (type(error) is Exception and not error.args and code is not None):
        raise error  # grpcio's own: the caller left in the middle of a stream, or somebody called `context.abort`
    if isinstance(error, NotImplementedError) and code is grpc.StatusCode.UNIMPLEMENTED:
        error = unknown_method(call)  # in the contract, but the servicer leaves it to the generated class
    status = to_status(error, call)
    sent = rpc_status.to_status(status)
    trailers = trailers_beside(status, context.trailing_metadata() or ())
    context.set_trailing_metadata((*trailers, *sent.trailing_metadata))
    context.abort(sent.code, sent.details)


def unknown_method(call: Call) -> UnknownMethod:
    """The error for a call of a method that the server does not have."""
    name = call.path.removeprefix("/")
    return UnknownMethod(f"This server has no method {name!r}.", method=name)
