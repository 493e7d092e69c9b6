"""Refuses calls: those beyond what a pool takes at once, and those that come while the server stops.

They are refused before anything of them is read. In a flood a server completes what refusing leaves it time for, so a
refusal has to be cheap. All of it but the request id is made in advance, and no interceptor sees it. Where there are
many, they wait: callers that try again at once come no faster than they are refused.
"""

from __future__ import annotations

import itertools
import time
from functools import cache
from typing import Any, Never

import grpc
from google.rpc.error_details_pb2 import RequestInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from handfast.server.chassis.call import Call, Method, Refused, current
from handfast.server.chassis.errors import DomainError, Overloaded, ShuttingDown
from handfast.server.chassis.errors.mapping import to_status
from handfast.server.chassis.pipeline.pools import Limiter

_AT_ONCE, _PAUSE = 8, 0.02
"""After so many refusals for overload, the next ones wait for so many seconds: that makes 400 a second at most. Each
costs some 0.2 ms, most of it in grpcio. To pause after each one would cost more (measured)."""


def refusal(limiter: Limiter) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that refuses every call. It runs on one thread. As its requests stream, it need not read any."""
    refused = itertools.count(1)

    def refuse(_requests: Any, context: grpc.ServicerContext) -> Never:
        # A caller that has left, or is refused because of a stop, does not come again at once.
        if context.is_active() and not limiter.draining and next(refused) % _AT_ONCE == 0:
            time.sleep(_PAUSE)
        call = current()
        assert call.refused is not None
        code, message, status, log = _prepared(call.method, call.refused)
        call.context = context
        call.log.update(log)
        named = Status()
        named.details.add().Pack(RequestInfo(request_id=call.request_id))
        # Serialized messages one after the other are one message, with the details of both.
        details = status + named.SerializeToString()
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        try:
            context.abort(code, message)
        finally:
            call.handler_ended(context)

    return grpc.stream_unary_rpc_method_handler(refuse)


@cache
def _prepared(method: Method, why: Refused) -> tuple[grpc.StatusCode, str, bytes, dict[str, object]]:
    """What the refusals of a method have in common: code, message, status without request id, fields of the log."""
    error: DomainError
    if why is Refused.STOPPING:
        error = ShuttingDown("The server stops, and takes no more calls.")
    else:
        limit = int(method.pool.limit)
        error = Overloaded(f"The server has {limit} calls at work or waiting, and takes no more.", limit=limit)
    call = Call(method, method.path)
    status = to_status(error, call)
    del status.details[-1]  # the request id, of which each call has its own
    return rpc_status.to_status(status).code, status.message, status.SerializeToString(), call.log
