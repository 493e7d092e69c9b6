"""Which traces are recorded where nothing else is asked for: OTEL_TRACES_SAMPLER=parentbased_traceidratio."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.util.types import Attributes

from handfast.client.tracing.spans import Unrecorded

_IS_RANDOM = 0x02
"""The flag of a `traceparent` that the id of the trace was drawn at random (https://www.w3.org/TR/trace-context-2/)."""


class ByRatio(Sampler):
    """Records what is part of a trace that is recorded, and of traces that begin here a share, and all that are linked
    to one that is recorded: so what is done for a transaction later is recorded where the transaction is.

    Nothing within a call that is not recorded ever is, nor are calls to peers that nothing recorded is the reason for.
    Raises ValueError where the ratio is not from 0 to 1.
    """

    def __init__(self, ratio: float) -> None:
        self._of_new_traces = TraceIdRatioBased(ratio)
        self.ids = DrawnIds()

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        parent = trace.get_current_span(parent_context).get_span_context()
        if parent.is_valid:
            is_recorded: bool = parent.trace_flags.sampled
        else:
            # A call to a peer begins a trace only in the background.
            begins = kind is not SpanKind.CLIENT and self._has(trace_id)
            is_recorded = begins or any(link.context.trace_flags.sampled for link in links or ())
        decision = Decision.RECORD_AND_SAMPLE if is_recorded else Decision.DROP
        return SamplingResult(decision, attributes, parent.trace_state)

    def unrecorded(self, traceparent: str | None) -> Unrecorded | None:
        """The span of a call with this `traceparent`, which is well formed, if nothing is recorded of the call: as the
        SDK would make it, for a quarter of the time. None where the SDK is to make a span, with the id that is drawn
        for its trace."""
        if traceparent is None:
            trace_id, flags = self.ids.generate_trace_id(), _IS_RANDOM
            if self._has(trace_id):
                self.ids.draw(trace_id)
                return None
        else:
            _, in_hex, _, flags_in_hex = traceparent.split("-")[:4]
            trace_id, flags = int(in_hex, 16), int(flags_in_hex, 16)
            if flags & TraceFlags.SAMPLED:
                return None
        span_context = SpanContext(trace_id, self.ids.generate_span_id(), False, TraceFlags(flags & _IS_RANDOM))
        return Unrecorded(span_context)

    def _has(self, new_trace_id: int) -> bool:
        return new_trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._of_new_traces.bound

    def get_description(self) -> str:
        return f"ByRatio{{{self._of_new_traces.rate}}}"


class DrawnIds(RandomIdGenerator):
    """The id of a trace decides whether it is recorded, so it may be drawn before the SDK asks for it."""

    def __init__(self) -> None:
        self._here = threading.local()

    def draw(self, trace_id: int) -> None:
        """For the trace that this thread begins next."""
        self._here.drawn = trace_id

    def generate_trace_id(self) -> int:
        drawn: int | None = self._here.__dict__.pop("drawn", None)
        return super().generate_trace_id() if drawn is None else drawn
