"""What becomes of calls beyond those that a pool takes at once (`observe/load.py` counts them).

They are refused where they arrive, before anything of them is read. With far more load than a server can take, what it
still completes is what refusing leaves it time for. So a refusal is made ahead but for its request id, and goes round
the other layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Never

import grpc
from google.rpc.error_details_pb2 import RequestInfo
from google.rpc.status_pb2 import Status

from handfast.client.propagation import REQUEST_ID_KEY
from handfast.server.chassis.call import Call, Method
from handfast.server.chassis.error_mapping import to_status
from handfast.server.chassis.errors import Overloaded
from handfast.server.chassis.handlers import Handler
from handfast.server.chassis.observe.record import RECORD


def refusal() -> Handler:
    """A handler that refuses every call. As its requests stream, it need not read any."""
    return grpc.stream_unary_rpc_method_handler(_refuse)


def _refuse(_requests: Any, context: grpc.ServicerContext) -> Never:
    record = RECORD.get()
    call = record.call
    call.peer = context.peer()
    prepared = _prepared(call.method)
    call.log.update(prepared.log)
    record.code = grpc.StatusCode.RESOURCE_EXHAUSTED
    named = Status()
    named.details.add().Pack(RequestInfo(request_id=call.request_id))
    # Serialized messages one after the other are one message, with the details of both.
    details = prepared.status + named.SerializeToString()
    context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id), ("grpc-status-details-bin", details)))
    context.abort(record.code, prepared.message)


@dataclass(frozen=True, slots=True)
class _Prepared:
    message: str
    status: bytes
    log: dict[str, object]


@cache
def _prepared(method: Method) -> _Prepared:
    limit = int(method.pool.limit)
    error = Overloaded(f"The server has {limit} calls at work or waiting, and takes no more.", limit=limit)
    call = Call.received(method, method.path, {})
    status = to_status(error, call)
    del status.details[-1]  # the request id, of which each call has its own
    return _Prepared(error.message, status.SerializeToString(), call.log)
