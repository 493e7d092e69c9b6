"""Stands between the coordinator and a participant, so that a test can act in the middle of an account call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

Metadata = Mapping[str, str | bytes]
Act = Callable[[Metadata], object]

_OF_THE_CONNECTION = ("grpc-", "user-agent", "te", "content-type")


class Between(grpc.GenericRpcHandler):
    """Passes all calls on. `before` and `after` say, by the name of a method, what to do before a call is passed on and
    before its reply goes back; both are given the call's metadata.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.before: dict[str, Act] = {}
        self.after: dict[str, Act] = {}

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        method = path.rpartition("/")[2]
        call: Any = self._channel.unary_unary(path)

        def pass_on(request: bytes, context: Any) -> Any:
            metadata = context.invocation_metadata()
            self.before.get(method, _nothing)(dict(metadata))
            passed = [(key, value) for key, value in metadata if not key.startswith(_OF_THE_CONNECTION)]
            try:
                reply, done = call.with_call(request, timeout=context.time_remaining(), metadata=passed)
            except grpc.RpcError as error:
                refused: Any = error
                context.set_trailing_metadata(refused.trailing_metadata())
                context.abort(refused.code(), refused.details())
            context.set_trailing_metadata(done.trailing_metadata())
            self.after.get(method, _nothing)(dict(metadata))
            return reply

        return grpc.unary_unary_rpc_method_handler(pass_on)


def _nothing(_: Metadata) -> None:
    pass


@contextlib.contextmanager
def between(address: str) -> Iterator[tuple[str, Between]]:
    """The address to call instead, and what stands there."""
    with grpc.insecure_channel(address) as channel:
        handler = Between(channel)
        server = grpc.server(ThreadPoolExecutor(4), [handler])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}", handler
        finally:
            server.stop(None).wait()
