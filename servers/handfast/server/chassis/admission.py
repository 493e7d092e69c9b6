"""The innermost layer: between the bytes of the wire and the messages of the handler.

It parses, serializes, limits sizes, and keeps transaction metadata from methods that would ignore it. grpcio could
parse and serialize by itself, but its failures would pass the other layers by, without details and uncounted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

from handfast.server.chassis.call import Call, Method, current
from handfast.server.chassis.cancellation import check_active
from handfast.server.chassis.errors import (
    InvalidMetadata,
    NotStageable,
    RequestTooLarge,
    ResponseTooLarge,
    UnparsableRequest,
)
from handfast.server.chassis.handlers import Behavior, Handler, behavior_of, of_bytes

DEFAULT_MESSAGE_LIMIT = 4 * 1024 * 1024
"""Bytes that one request or reply may have: what gRPC clients take by default."""

METADATA_LIMIT = 16 * 1024
"""Bytes that a call's metadata may have, as HTTP/2 counts them (RFC 9113, 6.5.2): key, value, and 32 for each entry.
The baggage of W3C has up to 8 KiB."""
_ENTRY = 32

_TRANSACTION_KEYS = frozenset(
    {"handfast-transaction-id", "handfast-operation", "handfast-transaction-deadline", "handfast-first-attempt"}
)


class Admission(grpc.ServerInterceptor):
    def __init__(self, methods: Mapping[str, Method], message_limit: int) -> None:
        self._methods = methods
        self._message_limit = message_limit

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = continuation(handler_call_details)
        method = self._methods.get(handler_call_details.method)
        if handler is None or method is None:  # the handler of unknown methods reads nothing
            return handler
        return of_bytes(handler, self._admitting(handler, method))

    def _admitting(self, handler: Handler, method: Method) -> Behavior:
        behavior = behavior_of(handler)
        parse = self._parser(handler)
        serialize = self._serializer(handler)
        refuses = method.refuses_transactions

        def check(context: grpc.ServicerContext) -> None:
            check_active()  # what came too late is not begun
            _refuse_large_metadata(context)
            call = current()
            if refuses:
                _refuse_transactions(call)
            if call.repeated:
                _refuse_repeated(call)

        def unary(request: Any, context: grpc.ServicerContext) -> bytes:
            check(context)
            return serialize(behavior(parse(request), context))

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            check(context)
            return map(serialize, behavior(parse(request), context))

        return stream if handler.response_streaming else unary

    def _parser(self, handler: Handler) -> Callable[[Any], Any]:
        deserialize = handler.request_deserializer or bytes
        limit = self._message_limit

        def parse(request: bytes) -> Any:
            if len(request) > limit:
                raise RequestTooLarge(
                    f"The request has {len(request)} bytes; up to {limit} are taken.", size=len(request), limit=limit
                )
            try:
                message: Any = deserialize(request)
            except Exception as error:
                raise UnparsableRequest("The bytes are not a message of the method's request type.") from error
            current().request = message if isinstance(message, Message) else None
            return message

        return (lambda requests: map(parse, requests)) if handler.request_streaming else parse

    def _serializer(self, handler: Handler) -> Callable[[Any], bytes]:
        serializer = handler.response_serializer or bytes
        limit = self._message_limit

        def serialize(reply: Any) -> bytes:
            serialized = serializer(reply)
            if len(serialized) > limit:
                raise ResponseTooLarge(
                    f"The reply would have {len(serialized)} bytes; up to {limit} are sent. Ask for less at a time.",
                    size=len(serialized),
                    limit=limit,
                )
            return serialized

        return serialize


def _refuse_large_metadata(context: grpc.ServicerContext) -> None:
    size = sum(len(key) + len(value) + _ENTRY for key, value in context.invocation_metadata())
    if size > METADATA_LIMIT:
        raise RequestTooLarge(
            f"The metadata has {size} bytes; up to {METADATA_LIMIT} are taken.", size=size, limit=METADATA_LIMIT
        )


def _refuse_transactions(call: Call) -> None:
    # A write that ignored the metadata would commit alone, though its caller asked for all or nothing.
    if not _TRANSACTION_KEYS.isdisjoint(call.metadata):
        name = call.path.removeprefix("/")
        raise NotStageable(f"{name} does not take part in transactions.", method=name)


def _refuse_repeated(call: Call) -> None:
    for key in sorted(_TRANSACTION_KEYS & call.repeated):
        raise InvalidMetadata(f"{key} came more than once.", key=key)
