"""Refuses calls: those beyond what a pool takes at once, those that come while the server stops, and those of callers
who must not make them.

No request of theirs is read. In a flood a server completes what refusing leaves it time for, so a refusal has to be
cheap: what overload has all of them told is made in advance, and no interceptor sees it. Where there are many, they
wait: callers that try again at once come no faster than they are refused.
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

from handfast.server.chassis.call import Call, Method, Pool, Refused, current
from handfast.server.chassis.errors import DomainError, Overloaded, ShuttingDown
from handfast.server.chassis.errors.mapping import end_with, to_status
from handfast.server.chassis.pipeline.pools import Limiter

_AT_ONCE, _PAUSE = 8, 0.02
"""After so many refusals, the next ones wait for so many seconds: that makes 400 a second at most. Each
costs some 0.2 ms, most of it in grpcio. To pause after each one would cost more (measured)."""


class Refusals:
    """Refuses calls, on the one thread of the pool `REFUSALS`.

    handler    refuses a call of any method: as it takes a stream, it need not read that
    """

    def __init__(self, limiter: Limiter) -> None:
        self._limiter, self._counter = limiter, itertools.count(1)
        self.handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_unary_rpc_method_handler(
            lambda _requests, context: self.refuse(current(), context)
        )

    def refuse(self, call: Call, context: grpc.ServicerContext) -> Never:
        """Ends the call as `call.refused` says."""
        # A caller that has left, or is refused because of a stop, does not come again at once.
        if context.is_active() and not self._limiter.draining and next(self._counter) % _AT_ONCE == 0:
            time.sleep(_PAUSE)
        call.context = context
        try:
            assert call.refused is not None
            if isinstance(call.refused, Exception):
                end_with(call.refused, call, context)
            code, message, status, log = _prepared(call.method, call.refused)
            call.log.update(log)
            named = Status()
            named.details.add().Pack(RequestInfo(request_id=call.request_id))
            # Serialized messages one after the other are one message, with the details of both.
            details = status + named.SerializeToString()
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
            context.abort(code, message)
        finally:
            call.handler_ended(context)


@cache
def _prepared(method: Method, why: Refused) -> tuple[grpc.StatusCode, str, bytes, dict[str, object]]:
    """What the refusals of a method have in common: code, message, status without request id, fields of the log."""
    error = _error(method.pool, why)
    call = Call(method, method.path)
    status = to_status(error, call)
    del status.details[-1]  # the request id, of which each call has its own
    return rpc_status.to_status(status).code, status.message, status.SerializeToString(), call.log


def _error(pool: Pool, why: Refused) -> DomainError:
    if why is Refused.STOPPING:
        return ShuttingDown("The server stops, and takes no more calls.")
    limit = int(pool.limit)
    return Overloaded(f"The server has {limit} calls at work or waiting, and takes no more.", limit=limit)
