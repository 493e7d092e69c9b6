"""A real server on loopback whose handlers do what a test tells them, and remember what they received."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from handfast.transactions.v1 import transactions_pb2, transactions_pb2_grpc
from handfast.users.v1 import users_pb2, users_pb2_grpc

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 100),
)
WITHOUT_CONTRACT = "/credits.v1.CreditsService"


@dataclass
class Received:
    method: str
    request: Any
    metadata: dict[str, str | bytes]
    time_remaining: float | None


@dataclass
class Backend:
    """`behave`, where set, decides each call: it may abort, sleep, or return a response of its own."""

    received: list[Received] = field(default_factory=list)
    behave: Callable[[grpc.ServicerContext, int], Any] = lambda context, attempt: None
    address: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            metadata = dict(context.invocation_metadata())
            self.received.append(Received(method, request, metadata, context.time_remaining()))
            attempt = len(self.received)
        return self.behave(context, attempt)

    def fail(self, times: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """The next `times` calls fail, the ones after that succeed."""

        def behave(context: grpc.ServicerContext, attempt: int) -> None:
            if attempt <= times:
                context.abort(code, "on purpose")

        self.behave = behave

    def fail_with(self, status: status_pb2.Status) -> None:
        self.behave = lambda context, attempt: context.abort_with_status(rpc_status.to_status(status))

    def metadata_values(self, key: str) -> set[str | bytes | None]:
        return {call.metadata.get(key) for call in self.received}


class UserService(users_pb2_grpc.UserServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def GetUser(self, request, context):  # type: ignore[no-untyped-def]
        answer = self._backend.answer("GetUser", request, context)
        return answer or users_pb2.GetUserResponse(user=users_pb2.User(user_id=request.user_id))

    def UpdateUser(self, request, context):  # type: ignore[no-untyped-def]
        return self._backend.answer("UpdateUser", request, context) or users_pb2.UpdateUserResponse(user=request.user)


class TransactionService(transactions_pb2_grpc.TransactionServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def GetTransaction(self, request, context):  # type: ignore[no-untyped-def]
        return self._backend.answer("GetTransaction", request, context) or transactions_pb2.GetTransactionResponse()


def _without_contract(backend: Backend) -> grpc.GenericRpcHandler:
    """A service that exists on the wire only: methods of all four arities, on bytes."""

    def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
        return backend.answer("Spend", request, context) or request

    def count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"1"
        yield backend.answer("Count", request, context) or b"2"

    def collect(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return backend.answer("Collect", b"".join(requests), context) or b"done"

    def echo(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        backend.answer("Echo", None, context)
        yield from requests

    def gather(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"".join(requests)
        backend.answer("Gather", None, context)

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Spend": grpc.unary_unary_rpc_method_handler(unary),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
        "Gather": grpc.stream_stream_rpc_method_handler(gather),
    }
    return grpc.method_handlers_generic_handler(WITHOUT_CONTRACT.strip("/"), handlers)


def serve(backend: Backend, port: int = 0, *more: str) -> grpc.Server:
    """On loopback, and at `more` addresses."""
    server = grpc.server(futures.ThreadPoolExecutor(8), options=_OPTIONS)
    users_pb2_grpc.add_UserServiceServicer_to_server(UserService(backend), server)  # type: ignore[abstract]
    transactions_pb2_grpc.add_TransactionServiceServicer_to_server(
        TransactionService(backend),  # type: ignore[abstract]
        server,
    )
    server.add_generic_rpc_handlers((_without_contract(backend),))
    backend.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    for address in more:
        server.add_insecure_port(address)
    server.start()
    return server


def rich_status(code: grpc.StatusCode, message: str, *details: Any) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def error_info(reason: str, **metadata: str) -> Any:
    return error_details_pb2.ErrorInfo(reason=reason, domain="handfast.users", metadata=metadata)


def retry_info(seconds: int, nanos: int = 0) -> Any:
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds, nanos=nanos))
