"""The spans of a transaction's phases, and of what is done for it later."""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import AbstractContextManager
from types import TracebackType

import grpc
from opentelemetry import context, trace
from opentelemetry.trace import Link, Span, SpanContext

from handfast.client.tracing.attributes import TRANSACTION_ID
from handfast.client.tracing.spans import error_type, fail, tracer
from handfast.server.chassis.errors import DomainError
from handfast.server.chassis.errors.mapping import code_of
from handfast.server.chassis.tracing import spans
from handfast.server.chassis.tracing.spans import NO_SPAN, Attributes, Phase

ERRORS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""What is an error of the server, by the semantic conventions; other codes tell the caller of one of its own."""
REASON, TRANSACTION_IDS = "handfast.error.reason", "handfast.transaction_ids"
MOST_REMEMBERED = 10_000
"""How many phases, the last ones: far more than there are before what follows them."""


class OpenTelemetryRecorder:
    """Makes a span only within one that is recorded: of a call that is not traced there is nothing, nor of work in the
    background that no traced call is the reason for."""

    def __init__(self) -> None:
        self._tracer = tracer("handfast.server")
        self._lock = threading.Lock()
        self._remembered: dict[tuple[Phase, str], SpanContext] = {}  # the oldest first

    def phase(self, phase: Phase, attributes: Attributes) -> spans.Span:
        if not trace.get_current_span().is_recording():
            return NO_SPAN
        span = self._tracer.start_span(phase.value, attributes=attributes)
        with self._lock:
            self._remembered[phase, str(attributes[TRANSACTION_ID])] = span.get_span_context()
            if len(self._remembered) > MOST_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
        return Block(span)

    def later(self, name: str, after: Phase, transaction_ids: Collection[str]) -> spans.Span:
        with self._lock:
            found = {id_: self._remembered[after, id_] for id_ in transaction_ids if (after, id_) in self._remembered}
        if not found and not trace.get_current_span().is_recording():
            return NO_SPAN
        links = [Link(span_context, {TRANSACTION_ID: id_}) for id_, span_context in found.items()]
        # Ids, too, as what came before may be of another process.
        return Block(self._tracer.start_span(name, attributes={TRANSACTION_IDS: [*transaction_ids]}, links=links))


class Block(AbstractContextManager[None]):
    """A block in which the span is current. What leaves it is named, but not its message, which may have personal data.
    A refusal is an error where it would be one of the server."""

    __slots__ = ("_token", "span")

    def __init__(self, span: Span) -> None:
        self.span = span

    def __enter__(self) -> None:
        self._token = context.attach(trace.set_span_in_context(self.span))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        context.detach(self._token)
        if error is not None:
            self.note(error)
        self.span.end()

    def note(self, error: BaseException) -> None:
        if not isinstance(error, DomainError):
            fail(self.span, error_type(error))
            return
        self.span.set_attribute(REASON, error.reason)
        if code_of(error) in ERRORS:
            fail(self.span, error.reason)
