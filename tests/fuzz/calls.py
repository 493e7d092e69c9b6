"""Calls as bytes and metadata, with no stub in between, and all that comes back."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

Metadata = tuple[tuple[str, str | bytes], ...]

TIMEOUT = 30.0
SHOWN = 500
"""Characters of a request that failed."""
REQUEST_ID = "x-request-id"


@dataclass(frozen=True)
class Call:
    """`held` says that it goes on until its caller leaves, so this one leaves after the first reply."""

    path: str
    requests: Sequence[bytes]
    metadata: Metadata = ()
    held: bool = False

    def __str__(self) -> str:
        requests = [_short(base64.b64encode(request).decode()) for request in self.requests]
        metadata = [(key, _short(value) if isinstance(value, str) else value) for key, value in self.metadata]
        return f"{self.path} with {requests} (base64) and metadata {metadata}"


def _short(text: str) -> str:
    return text if len(text) < SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"


@dataclass(frozen=True)
class Outcome:
    """`status` is what the service says in the details of an error; `request_id` what it called the call."""

    code: grpc.StatusCode
    message: str
    status: Status | None
    replies: Sequence[bytes]
    request_id: str
    trailers: Metadata


def send(channel: grpc.Channel, call: Call) -> Outcome:
    # On the wire there is no difference between the arities, so what streams both ways can call any method.
    one = len(call.requests) == 1
    method: Any = channel.unary_stream(call.path) if one else channel.stream_stream(call.path)
    requests = call.requests[0] if one else iter(call.requests)
    stream = method(requests, metadata=call.metadata, timeout=TIMEOUT)
    replies: list[bytes] = []
    try:
        for reply in stream:
            replies.append(reply)
            if call.held:
                request_id = _request_id((*stream.initial_metadata(), *call.metadata))  # trailers never come
                stream.cancel()
                return Outcome(grpc.StatusCode.CANCELLED, "", None, replies, request_id, ())
    except grpc.RpcError:
        pass
    trailers = tuple(stream.trailing_metadata() or ())
    status: Status | None = rpc_status.from_call(stream)
    request_id = _request_id((*(stream.initial_metadata() or ()), *trailers))
    return Outcome(stream.code(), stream.details() or "", status, replies, request_id, trailers)


def _request_id(metadata: Any) -> str:
    return next((str(value) for key, value in metadata if key == REQUEST_ID), "")
