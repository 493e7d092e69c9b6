"""The layer that turns what a handler raises into what the caller is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Never

import grpc
import grpc_interceptor
from grpc_status import rpc_status

from handfast.client.propagation import REQUEST_ID_KEY
from handfast.server.chassis.call import Call, current
from handfast.server.chassis.errors import UnknownMethod
from handfast.server.chassis.errors.mapping import to_status
from handfast.server.chassis.errors.status import trailers_beside
from handfast.server.chassis.handlers import Handler


class MapErrors(grpc_interceptor.ServerInterceptor):
    """Stands right outside of `Admission`, so requests and replies are bytes here."""

    def intercept(
        self,
        method: Callable[..., Any],
        request_or_iterator: Any,
        context: grpc.ServicerContext,
        method_name: str,
    ) -> Any:
        try:
            replies = method(request_or_iterator, context)
        except BaseException as error:  # grpcio would leave the caller waiting after a SystemExit
            _refuse(error, context)
        return replies if isinstance(replies, bytes) else _mapping_errors(replies, context)


class UnknownMethods(grpc.GenericRpcHandler):
    """Serves what no service on the server does, so that the refusal has details and is counted like any other."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        # Streaming both ways answers any caller: it reads nothing, and ends the call.
        return grpc.stream_stream_rpc_method_handler(_refuse_unknown)


def _refuse_unknown(_requests: Iterator[bytes], _context: grpc.ServicerContext) -> Never:
    raise _unknown_method(current())


def _unknown_method(call: Call) -> UnknownMethod:
    name = call.path.removeprefix("/")
    return UnknownMethod(f"This server has no method {name!r}.", method=name)


def _mapping_errors(replies: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    try:
        yield from replies
    except GeneratorExit:  # the caller left
        raise
    except BaseException as error:
        _refuse(error, context)


def _refuse(error: BaseException, context: grpc.ServicerContext) -> Never:
    """Ends the call. Always raises: that is how grpcio ends a call early."""
    code = context.code()  # type: ignore[attr-defined]  # its stubs leave it out
    if type(error) is grpc.RpcError or (type(error) is Exception and not error.args and code is not None):
        raise error  # grpcio's own: the caller left in the middle of a stream, or the handler called `context.abort`
    if isinstance(error, NotImplementedError) and code is grpc.StatusCode.UNIMPLEMENTED:
        error = _unknown_method(current())  # in the contract, but the servicer leaves it to the generated class
    call = current()
    status = to_status(error, call)
    sent = rpc_status.to_status(status)
    trailers = trailers_beside(status, context.trailing_metadata() or ())
    context.set_trailing_metadata((*trailers, (REQUEST_ID_KEY, call.request_id), *sent.trailing_metadata))
    context.abort(sent.code, sent.details)
