"""What becomes of calls beyond those that a pool takes at once (`observe/load.py` counts them).

They are refused where they arrive, before anything of them is read: with more load than a server can take, what counts
is that a refusal costs far less than a call.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from typing import Never

import grpc

from handfast.server.chassis.call import current
from handfast.server.chassis.error_layer import MapErrors
from handfast.server.chassis.errors import Overloaded
from handfast.server.chassis.handlers import Handler

_Details = namedtuple("_Details", ("method", "invocation_metadata"))


def refusal() -> Handler:
    """A handler that refuses every call. Streaming both ways, it answers any caller and reads nothing."""
    handler = MapErrors().intercept_service(
        lambda _details: grpc.stream_stream_rpc_method_handler(_refuse),
        _Details("", ()),  # type: ignore[arg-type]  # grpcio's own is no class to make one of
    )
    assert handler is not None
    return handler


def _refuse(_requests: Iterator[bytes], _context: grpc.ServicerContext) -> Never:
    limit = int(current().method.pool.limit)
    raise Overloaded(f"The server has {limit} calls at work or waiting, and takes no more.", limit=limit)
