"""The one layer around every call: it opens the call, turns bytes into messages and back, and exceptions into statuses.

What is inside of it, interceptors of a team's own and the handler, sees messages, and may raise what it likes. grpcio
could parse and serialize by itself, but its failures would come without details, and uncounted.

Known limits. grpcio itself refuses a message of more than twice the limit here, and such a call is recorded with
another code than its caller sees. Where a deadline passes while the reply is on its way, or in a flood before grpcio
hands the call over, only the caller notices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Never

import grpc
import grpc_interceptor
from google.protobuf.message import Message

from handfast.client.propagation import CURRENT
from handfast.client.transaction_metadata import STAGE_KEYS
from handfast.server.chassis.call import Call, Method, current
from handfast.server.chassis.cancellation import Canceller, check_active
from handfast.server.chassis.errors import (
    InvalidMetadata,
    NotStageable,
    RequestTooLarge,
    ResponseTooLarge,
    UnparsableRequest,
)
from handfast.server.chassis.errors.mapping import end_with, shortened_message, unknown_method
from handfast.server.chassis.metadata import ENTRY_BYTES, check_metadata
from handfast.server.chassis.pipeline.pools import Limiter
from handfast.server.chassis.pipeline.refusal import Refusals
from handfast.server.chassis.security.audit import MAX_RESOURCE
from handfast.server.chassis.security.guard import Guard
from handfast.server.chassis.security.permission import Permission

DEFAULT_MESSAGE_LIMIT = 4 * 1024 * 1024
"""Bytes that one request or reply may have: what gRPC clients take by default."""

METADATA_LIMIT = 16 * 1024
"""Bytes that a call's metadata may have, as HTTP/2 counts them (RFC 9113, 6.5.2): key, value, and 32 for each entry.
The baggage of W3C has up to 8 KiB."""


Read = Callable[[Call, Any], Any]
Behavior = Callable[[Any, grpc.ServicerContext], Any]
Handler = Any  # grpc.RpcMethodHandler, which is generic for type checkers only
_FACTORIES = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class CallLayer(grpc.ServerInterceptor):
    """`methods` are those that the server has, by path; any other call counts as one of `unknown`.

    `interceptors` are those inside of this layer. `guard` asks who calls; without one, everybody may call everything.
    `on_begin` is called before each handler, in its context.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        unknown: Method,
        limiter: Limiter,
        canceller: Canceller,
        interceptors: Sequence[grpc.ServerInterceptor],
        guard: Guard | None = None,
        on_begin: Callable[[Call], None] | None = None,
    ) -> None:
        self._methods, self._unknown, self._guard, self._on_begin = methods, unknown, guard, on_begin
        self._limiter, self._canceller, self._refusals = limiter, canceller, Refusals(limiter)
        # The handler of a method is wrapped once, unless an interceptor may choose another one for each call.
        self._keeps_handlers = all(map(_runs_when_served, interceptors))
        self._handlers: dict[str, Handler] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        # Runs on grpcio's one polling thread, in the context that the handler will run in.
        path = handler_call_details.method
        method = self._methods.get(path, self._unknown)
        call = Call(method, path, handler_call_details.invocation_metadata)
        CURRENT.set(call)
        if not self._limiter.arrive(call):
            return self._refusals.handler
        handler = self._handlers.get(path)
        if handler is None:
            handler = self._new_handler(continuation, handler_call_details, method)
            # None is kept of a method that does not exist: callers can make up names without end.
            if self._keeps_handlers and method is not self._unknown:
                self._handlers[path] = handler
        return handler

    def _new_handler(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler],
        details: grpc.HandlerCallDetails,
        method: Method,
    ) -> Handler:
        """The handler of the method. There is always one: without a handler, a call would not be counted."""
        # One that streams both ways can end any call, as it need not read a request.
        try:
            inner = continuation(details) or grpc.stream_stream_rpc_method_handler(_refuse_unknown)
            return self._around(inner, method)
        except BaseException as error:  # of an interceptor; its caller gets what a handler's exception becomes
            return self._around(grpc.stream_stream_rpc_method_handler(partial(_raise, error)), method)

    def _around(self, inner: Handler, method: Method) -> Handler:
        """A handler of the arity of `inner` that takes and returns bytes."""
        behavior = inner.unary_unary or inner.unary_stream or inner.stream_unary or inner.stream_stream
        read: Read = partial(_one, inner.request_deserializer or bytes)
        if self._guard is not None and method.permission is not None:
            if inner.request_streaming:
                read = partial(_noted, method.permission, read)
            if method.permission.looks_at_requests:
                read = partial(_checked, self._guard, read)
        if inner.request_streaming:
            read = partial(_each, self._guard, read)
        serialize = partial(_serialize, inner.response_serializer or bytes)
        if method.pushes and inner.response_streaming:  # an interceptor may put a handler with one reply in its place
            outer = self._pushing(behavior, method, read, serialize)
        elif inner.response_streaming:
            outer = self._stream(behavior, method, read, serialize)
        else:
            outer = self._unary(behavior, method, read, serialize)
        return _FACTORIES[inner.request_streaming, inner.response_streaming](outer)

    def _unary(self, behavior: Behavior, method: Method, read: Read, serialize: Callable[[Any], bytes]) -> Behavior:
        if method.writes and self._guard is not None:
            behavior = _keeping_reply(behavior)

        def serve(request: Any, context: grpc.ServicerContext) -> bytes:
            call = self._begin(context)
            try:
                if method.path:
                    check_active()  # what came too late is not begun
                reply = serialize(behavior(read(call, request), context))
                _check_end(call, context)
                call.sent = 1
                return reply
            except BaseException as error:  # grpcio would leave the caller waiting after a SystemExit
                end_with(error, call, context)
            finally:
                call.handler_ended(context)

        return serve

    def _stream(self, behavior: Behavior, method: Method, read: Read, serialize: Callable[[Any], bytes]) -> Behavior:
        def serve(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            call = self._begin(context)
            try:
                if method.path:
                    check_active()
                for reply in behavior(read(call, request), context):
                    serialized = serialize(reply)
                    call.sent += 1  # counted before it is sent: once the caller leaves, nothing goes on after `yield`
                    call.waiting_since = time.monotonic()
                    yield serialized
                    call.waiting_since = None
                _check_end(call, context)
            except BaseException as error:
                if isinstance(error, GeneratorExit) and not context.is_active():
                    raise  # the caller left, and grpcio closes this generator
                end_with(error, call, context)
            finally:
                call.handler_ended(context)

        return serve

    def _pushing(self, behavior: Behavior, method: Method, read: Read, serialize: Callable[[Any], bytes]) -> Any:
        replies = self._stream(behavior, method, read, serialize)

        def serve(request: Any, context: grpc.ServicerContext, send: Callable[[bytes | None], None]) -> None:
            call = current()
            try:
                # The handler returns no replies. But an interceptor may run it only once replies are asked for, or
                # reply in its place.
                for reply in replies(request, context):
                    send(reply)
            finally:
                self._canceller.forget(call)
            if not call.pushed:
                send(None)  # ends the call

        # By this mark grpcio knows a handler whose replies come after it has returned.
        serve.experimental_non_blocking = True  # type: ignore[attr-defined]
        return serve

    def _begin(self, context: grpc.ServicerContext) -> Call:
        call = current()
        call.begin(context)
        if self._on_begin is not None:
            self._on_begin(call)
        if not context.add_callback(partial(self._canceller.grpc_ended, call)):
            self._canceller.grpc_ended(call)
        if call.refused is not None:
            self._refusals.refuse(call, context)
        return call

    def check_headers(self, call: Call, context: grpc.ServicerContext) -> None:
        """Raises where the call must not be begun, whatever its request is. On grpcio's polling thread."""
        method = call.method
        if method.path:
            # Before it is asked who calls, since that reads metadata. It tells only what callers have sent themselves.
            size = metadata_size(context.invocation_metadata())
            if size > METADATA_LIMIT:
                raise RequestTooLarge(
                    f"The metadata has {size} bytes; up to {METADATA_LIMIT} are taken.",
                    size=size,
                    limit=METADATA_LIMIT,
                )
        if self._guard is not None:
            self._guard.admit(call, context)
        if not method.path:  # there is no such method, which callers that may know are told, whatever else is wrong
            return
        # A write that ignored the metadata would commit alone, though its caller asked for all or nothing.
        if method.refused_keys and not method.refused_keys.isdisjoint(call.metadata):
            name = call.path.removeprefix("/")
            only_reads = len(method.refused_keys) < len(STAGE_KEYS)
            does = "only reads within transactions" if only_reads else "does not take part in transactions"
            raise NotStageable(f"{name} {does}.", method=name)
        for key in sorted(STAGE_KEYS & call.repeated):
            raise InvalidMetadata(f"{key} came more than once.", key=key)


def _keeping_reply(behavior: Behavior) -> Behavior:
    """For the audit: of what a write creates, the id may stand in the reply alone."""

    def serve(request: Any, context: grpc.ServicerContext) -> Any:
        reply = behavior(request, context)
        current().reply = reply if isinstance(reply, Message) else None
        return reply

    return serve


def _runs_when_served(interceptor: grpc.ServerInterceptor) -> bool:
    """Whether the interceptor runs on the thread that serves a call, so that it can be put around a method once."""
    by_default = grpc_interceptor.ServerInterceptor.intercept_service
    return getattr(type(interceptor), "intercept_service", None) is by_default


def _raise(error: BaseException, _requests: object, _context: object) -> Never:
    raise error


def _refuse_unknown(_requests: object, _context: object) -> Never:
    raise unknown_method(current())


def _one(deserialize: Callable[[bytes], Any], call: Call, request: bytes) -> Any:
    call.received += 1
    if (size := len(request)) > (limit := DEFAULT_MESSAGE_LIMIT):
        raise RequestTooLarge(f"The request has {size} bytes; up to {limit} are taken.", size=size, limit=limit)
    try:
        message = deserialize(request)
    except Exception as error:
        raise UnparsableRequest("The bytes are not a message of the method's request type.") from error
    call.request = message if isinstance(message, Message) else None
    return message


def _noted(permission: Permission, read: Read, call: Call, request: bytes) -> Any:
    """A message of a stream. For the audit: the next one takes its place, and may be about something else."""
    message = read(call, request)
    if len(call.resources) < MAX_RESOURCE and (ids := permission.resource(call.request)):
        distinct = dict.fromkeys((*filter(None, call.resources.split(",")), ids))
        call.resources = ",".join(distinct)[:MAX_RESOURCE]
    return message


def _checked(guard: Guard, read: Read, call: Call, request: bytes) -> Any:
    """A message that the caller may send."""
    message = read(call, request)
    if call.is_to_be_checked:
        guard.check_request(call, message)
    return message


def _each(guard: Guard | None, read: Read, call: Call, requests: Iterable[bytes]) -> Iterator[Any]:
    """The messages of a caller that streams them."""
    messages = _as_they_come(read, call, requests)
    if guard is None or not call.is_to_be_checked:
        return messages
    # The handler does nothing before it is certain that the caller asks for its own. Without a message it does not.
    first = [*islice(messages, 1)]
    if not first:
        guard.check_request(call, None)
    return chain(first, messages)


def _as_they_come(read: Read, call: Call, requests: Iterable[bytes]) -> Iterator[Any]:
    call.waiting_since = time.monotonic()
    for request in requests:
        call.waiting_since = None
        yield read(call, request)
        call.waiting_since = time.monotonic()
    call.waiting_since = None


def _serialize(serializer: Callable[[Any], bytes], reply: Any) -> bytes:
    serialized = serializer(reply)
    if (size := len(serialized)) > (limit := DEFAULT_MESSAGE_LIMIT):
        message = f"The reply would have {size} bytes; up to {limit} are sent. Ask for less at a time."
        raise ResponseTooLarge(message, size=size, limit=limit)
    return serialized


def _check_end(call: Call, context: Any) -> None:
    """For a handler that has returned. Raises ValueError or ResponseTooLarge where its trailers cannot be sent, and
    shortens the message that it may have set beside a code."""
    if trailers := context.trailing_metadata():
        check_metadata("trailing", trailers)
    if context.details():
        shortened_message(call, context)


def metadata_size(entries: Any) -> int:
    """Bytes that the entries, pairs of a key and a value, have as HTTP/2 counts them (RFC 9113, 6.5.2)."""
    return sum(map(len, chain.from_iterable(entries))) + ENTRY_BYTES * len(entries)
