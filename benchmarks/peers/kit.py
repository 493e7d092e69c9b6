"""grpc-server-kit with a method that does nothing, on asyncio and uvloop, with its context, log, metrics and error
interceptors in the order that it documents.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import logging
import re
import sys
import uuid
from typing import Any

import grpc
import uvloop
from prometheus_client import start_http_server

from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse
from handfast.users.v1.users_pb2_grpc import UserServiceServicer, add_UserServiceServicer_to_server


class Empty(UserServiceServicer):
    async def GetUser(self, request: GetUserRequest, context: Any) -> GetUserResponse:
        return GetUserResponse()


async def main() -> None:
    from grpc_server_kit.aio.interceptors import (
        AsyncContextInterceptor,
        AsyncExceptionHandlerInterceptor,
        AsyncMetricsInterceptor,
        AsyncRequestLoggerInterceptor,
        HeaderConfig,
    )
    from grpc_server_kit.observability.metrics import GrpcServerMetrics

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    request_id = HeaderConfig("x-request-id", "request_id", default_factory=lambda: str(uuid.uuid4()))
    server = grpc.aio.server(
        interceptors=[
            AsyncMetricsInterceptor(GrpcServerMetrics(), "empty"),
            AsyncContextInterceptor([request_id]),
            AsyncRequestLoggerInterceptor(log_peer=True),
            AsyncExceptionHandlerInterceptor(),
        ]
    )
    add_UserServiceServicer_to_server(Empty(), server)  # type: ignore[abstract]
    start_http_server(0, "127.0.0.1")
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


class _WithoutTypeStatements(importlib.machinery.SourceFileLoader):
    """All that the package needs Python 3.12 for are aliases for annotations, `type A = ...`. 3.11 does without."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        source = re.sub(rb"^type (\w+) = .*$", rb"\1 = None", data, flags=re.MULTILINE)
        return super().source_to_code(source, path, _optimize=_optimize)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        spec = (
            importlib.machinery.PathFinder.find_spec(fullname, path) if fullname.startswith("grpc_server_kit") else None
        )
        if spec is not None and spec.origin is not None:
            spec.loader = _WithoutTypeStatements(fullname, spec.origin)
        return spec


if __name__ == "__main__":
    if sys.version_info < (3, 12):
        sys.meta_path.insert(0, _Finder())
    uvloop.run(main())
