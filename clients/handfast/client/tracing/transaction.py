"""The span of a transaction."""

from __future__ import annotations

from contextlib import suppress
from contextvars import Token

from opentelemetry import context, trace

from handfast.client.propagation import TRACEPARENT_KEY
from handfast.client.tracing.attributes import OUTCOME, TRANSACTION_ID
from handfast.client.tracing.spans import error_type, fail, headers_of, tracer


class TransactionSpan:
    """The span of a transaction, which is current within its block."""

    def __init__(self) -> None:
        self._span = tracer("handfast.client").start_span("transaction")
        self._token: Token[context.Context] = context.attach(trace.set_span_in_context(self._span))
        self.traceparent = headers_of(self._span.get_span_context()).get(TRACEPARENT_KEY)
        """Of its calls, also in other threads, where it is not current."""

    def end(self, error: BaseException | None, transaction_id: str, outcome: str) -> None:
        with suppress(ValueError):  # its block is left in another thread or task, of which `context.detach` would log
            self._token.var.reset(self._token)
        self._span.set_attribute(OUTCOME, str(outcome))
        if transaction_id:  # else it had no call
            self._span.set_attribute(TRANSACTION_ID, transaction_id)
        if error is not None:
            fail(self._span, error_type(error))
        self._span.end()
