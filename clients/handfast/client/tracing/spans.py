"""Spans, and the metadata by which others learn of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from handfast.client.errors import ServiceError
from handfast.client.propagation import TRACEPARENT_KEY
from handfast.client.tracing.attributes import ERROR_TYPE, SCHEMA

TRACESTATE_KEY = "tracestate"
_W3C = TraceContextTextMapPropagator()


class Unrecorded(NonRecordingSpan):
    """The span of a call of which nothing is recorded, as is known of all within it, too: that needs no spans."""

    def __init__(self, span_context: SpanContext) -> None:
        super().__init__(span_context)
        self.headers = headers_of(span_context)


def tracer(of: str) -> Tracer:
    """What makes the spans of `handfast.client` or `handfast.server`, which have the version of Handfast."""
    return trace.get_tracer(of, _version(), schema_url=SCHEMA)


@functools.cache
def _version() -> str | None:
    try:
        return version("handfast")
    except PackageNotFoundError:  # it runs from sources that are not installed
        return None


def parent_in(headers: Mapping[str, str | bytes]) -> context.Context:
    """The span that metadata names as the parent of what follows, in a context of its own; none in an empty one."""
    ours = {key: value for key in (TRACEPARENT_KEY, TRACESTATE_KEY) if isinstance(value := headers.get(key), str)}
    return _W3C.extract(ours, context.Context())


def headers_of(span: SpanContext) -> dict[str, str]:
    """The metadata by which others learn of a span; none of one that is not valid, as without an SDK."""
    if not span.is_valid:
        return {}
    # As `_W3C.inject` writes it, for a third of the time.
    headers = {TRACEPARENT_KEY: f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"}
    if span.trace_state:
        headers[TRACESTATE_KEY] = span.trace_state.to_header()
    return headers


def error_type(error: BaseException) -> str:
    """What `error.type` is of it: the reason of who refused, or the class."""
    return (isinstance(error, ServiceError) and error.reason) or type(error).__qualname__


def fail(span: Span, error: str) -> None:
    """Has the span say that it failed. Messages of errors may have personal data, so they are left out."""
    span.set_attribute(ERROR_TYPE, error)
    span.set_status(StatusCode.ERROR)
