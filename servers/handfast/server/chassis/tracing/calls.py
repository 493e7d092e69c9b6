"""A span for each call, from its arrival to its end, and exemplars: traces of calls that took so long.

Attributes are those of the semantic conventions for gRPC. Who calls and from where is not among them. Calls for health
and reflection are not traced: probes would be most of what is recorded.
"""

from __future__ import annotations

import time
from bisect import bisect_left

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind
from prometheus_client.samples import Exemplar

from handfast.client.propagation import TRACEPARENT_KEY
from handfast.client.tracing.attributes import METHOD, RPC, SERVER_ADDRESS, SERVER_PORT, STATUS_CODE, TRANSACTION_ID
from handfast.client.tracing.spans import TRACESTATE_KEY, fail, headers_of, parent_in, tracer
from handfast.server.chassis.call import Call, Method
from handfast.server.chassis.pipeline.pools import DURATIONS_S
from handfast.server.chassis.tracing import spans
from handfast.server.chassis.tracing.recorder import ERRORS, REASON, OpenTelemetryRecorder
from handfast.server.chassis.tracing.sampler import ByRatio

_ALL_ADDRESSES = ("0.0.0.0", "::")
_OPERATIONS = "grpc."
_ATTEMPTS_KEY = "grpc-previous-rpc-attempts"
"""Where gRPC says how often it has made the call before."""
_NS_PER_SECOND = 1_000_000_000


class CallTracing:
    """Traces the calls of one server. `exemplars` has the last call that is recorded of each method and each bucket of
    how long calls took."""

    def __init__(self) -> None:
        self._tracer = tracer("handfast.server")
        self._by_ratio: ByRatio | None = None
        self._server: dict[str, str | int] = {}
        self.exemplars: dict[tuple[Method, int], Exemplar] = {}
        spans.recorder = spans.recorder or OpenTelemetryRecorder()

    def serve_at(self, host: str, port: int) -> None:
        self._server = {SERVER_PORT: port} if host in _ALL_ADDRESSES else {SERVER_ADDRESS: host, SERVER_PORT: port}
        sampler = getattr(trace.get_tracer_provider(), "sampler", None)
        self._by_ratio = sampler if isinstance(sampler, ByRatio) else None

    def begin(self, call: Call) -> None:
        """In the context in which the handler is about to run: what it does is part of the call's span."""
        if not call.method.service.startswith(_OPERATIONS):
            context.attach(trace.set_span_in_context(self._start(call)))

    def ended(self, call: Call) -> None:
        """The call is recorded. It may never have had a handler."""
        if call.method.service.startswith(_OPERATIONS):
            return
        span: Span = call.span or self._start(call)
        if not span.is_recording():
            return
        assert call.code is not None
        span.set_attribute(STATUS_CODE, call.code.name)
        attempts = str(call.metadata.get(_ATTEMPTS_KEY, ""))
        if attempts.isascii() and attempts.isdigit():
            span.set_attribute("handfast.previous_attempts", int(attempts[:3]))
        if transaction_id := call.log.get("transaction_id"):
            span.set_attribute(TRANSACTION_ID, str(transaction_id))
        if reason := call.log.get("error.reason"):
            span.set_attribute(REASON, str(reason))
        if call.code in ERRORS:
            fail(span, call.code.name)
        span.end(_ns_at_arrival(call) + int(call.seconds * _NS_PER_SECOND))
        labels = {"trace_id": call.trace_id or "", "span_id": call.span_id or ""}
        bucket = bisect_left(DURATIONS_S, call.seconds)
        self.exemplars[call.method, bucket] = Exemplar(labels, call.seconds, time.time())

    def _start(self, call: Call) -> Span:
        unrecorded = None
        if self._by_ratio is not None and TRACESTATE_KEY not in call.metadata:
            unrecorded = self._by_ratio.unrecorded(call.traceparent)
        span = unrecorded or self._by_sdk(call)
        headers = headers_of(span.get_span_context()) if unrecorded is None else unrecorded.headers
        call.span, call.traceparent = span, headers.get(TRACEPARENT_KEY, call.traceparent)
        return span

    def _by_sdk(self, call: Call) -> Span:
        name = call.method.path.removeprefix("/")
        return self._tracer.start_span(
            name or RPC["rpc.system.name"],
            # A malformed `traceparent` is none.
            parent_in(call.metadata if call.traceparent else {}),
            SpanKind.SERVER,
            {**RPC, METHOD: name or "_OTHER", **self._server},
            start_time=_ns_at_arrival(call),
        )


def _ns_at_arrival(call: Call) -> int:
    """When the call arrived, in nanoseconds since the epoch."""
    return time.time_ns() - int((time.monotonic() - call.arrived_monotonic_s) * _NS_PER_SECOND)
