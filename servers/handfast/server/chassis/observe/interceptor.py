"""Opens a record for each call, and notes in it what the handler does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc

from handfast.client import propagation
from handfast.client.propagation import Propagated
from handfast.server.chassis.call import CURRENT, Call, Method
from handfast.server.chassis.cancellation import Canceller
from handfast.server.chassis.handlers import Behavior, Handler, behavior_of, of_bytes
from handfast.server.chassis.observe.load import Load
from handfast.server.chassis.observe.record import RECORD, Record


class Observe(grpc.ServerInterceptor):
    """`methods` are those that the server has, by path; any other call counts as one of `unknown`.

    `refusal` serves what `load` does not admit, and notes the code by itself. `on_start` and `on_end` are told of every
    call once; they run between calls, so they must be quick.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        unknown: Method,
        load: Load,
        canceller: Canceller,
        refusal: Handler,
        on_start: Sequence[Callable[[Method], None]],
        on_end: Sequence[Callable[[Record], None]],
    ) -> None:
        self._methods = methods
        self._unknown = unknown
        self._load = load
        self._canceller = canceller
        self._refusal = refusal
        self._on_start = on_start
        self._on_end = (load.ended, lambda record: canceller.end(record.call), *on_end)
        self._handlers: dict[str, Handler] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        # Runs on grpcio's one polling thread, in the context that the handler will run in.
        path = handler_call_details.method
        method = self._methods.get(path, self._unknown)
        call = Call.received(method, path, handler_call_details.invocation_metadata)
        CURRENT.set(call)
        refused = self._load.admit(method.pool)
        RECORD.set(Record(call, refused, self._on_end))
        for report in self._on_start:
            report(method)
        if refused is not None:
            return self._refusal
        if (known := self._handlers.get(path)) is not None:
            return known
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        observed = of_bytes(handler, self._observing(handler, method))
        if method is not self._unknown:  # anybody can make up names without end
            self._handlers[path] = observed
        return observed

    def _observing(self, handler: Handler, method: Method) -> Behavior:
        behavior = behavior_of(handler)
        if method.pushes:
            return self._pushing(behavior)
        return self._stream(behavior) if handler.response_streaming else self._unary(behavior)

    def _unary(self, behavior: Behavior) -> Behavior:
        def observed(request: Any, context: grpc.ServicerContext) -> Any:
            record = self._begin(context)
            try:
                reply = behavior(_counted(request, record), context)
                record.call.send_initial_metadata()
                record.sent = 1
                return reply
            finally:
                record.code = _code(context)

        return observed

    def _stream(self, behavior: Behavior) -> Behavior:
        def observed(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            record = self._begin(context)
            try:
                for reply in behavior(_counted(request, record), context):
                    record.call.send_initial_metadata()
                    record.call.waiting_since = time.monotonic()
                    yield reply
                    record.call.waiting_since = None
                    record.sent += 1
                record.call.send_initial_metadata()
            finally:
                record.code = _code(context)

        return observed

    def _pushing(self, behavior: Behavior) -> Behavior:
        def observed(request: Any, context: grpc.ServicerContext, _send: object) -> None:
            record = self._begin(context)
            try:
                behavior(_counted(request, record), context)
            finally:
                record.code = _code(context)
                self._canceller.end(record.call)

        # This is how grpcio knows a handler whose replies come later. It would send them by `_send`, which waits.
        observed.experimental_non_blocking = True  # type: ignore[attr-defined]
        return observed

    def _begin(self, context: grpc.ServicerContext) -> Record:
        record = RECORD.get()
        call = record.call
        call.begin(context)
        call.waiting_since = None

        def over() -> None:
            record.note_over()
            self._canceller.interrupt(call)

        if not context.add_callback(over):
            over()
        propagation.CURRENT.set(Propagated(call.request_id, call.traceparent, call.deadline))
        return record


def _counted(request: bytes | Iterator[bytes], record: Record) -> bytes | Iterator[bytes]:
    if isinstance(request, bytes):
        record.received = 1
        return request
    return _counting(request, record)


def _counting(requests: Iterator[bytes], record: Record) -> Iterator[bytes]:
    call = record.call
    call.waiting_since = time.monotonic()
    for request in requests:
        call.waiting_since = None
        record.received += 1
        yield request
        call.waiting_since = time.monotonic()
    call.waiting_since = None


def _code(context: grpc.ServicerContext) -> grpc.StatusCode:
    """What the handler decided. It can set a code without raising, as the health service does."""
    code = context.code()  # type: ignore[attr-defined]  # its stubs leave it out
    if code is None:
        return grpc.StatusCode.OK
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
