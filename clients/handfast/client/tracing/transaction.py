"""The span of a transaction."""

from __future__ import annotations

from opentelemetry import context, trace

from handfast.client.propagation import TRACEPARENT_KEY
from handfast.client.tracing.attributes import OUTCOME, TRANSACTION_ID
from handfast.client.tracing.spans import error_type, fail, headers_of, tracer

_INNERMOST = context.create_key("handfast-transaction")


class TransactionSpan:
    """The span of a transaction, which is current within its block."""

    def __init__(self) -> None:
        self.around = still_open(context.get_current())
        self._span = tracer("handfast.client").start_span("transaction", self.around)
        self._is_over = False
        context.attach(context.set_value(_INNERMOST, self, trace.set_span_in_context(self._span, self.around)))
        self.traceparent = headers_of(self._span.get_span_context()).get(TRACEPARENT_KEY)
        """Of its calls, also in other threads, where it is not current."""

    def end(self, error: BaseException | None, transaction_id: str, outcome: str) -> None:
        self._is_over = True
        context.attach(still_open(context.get_current()))
        self._span.set_attribute(OUTCOME, str(outcome))
        if transaction_id:  # else it had no call
            self._span.set_attribute(TRANSACTION_ID, transaction_id)
        if error is not None:
            fail(self._span, error_type(error))
        self._span.end()

    def lingers(self, here: context.Context) -> bool:
        """Whether it is over, though its span is current here."""
        return self._is_over and trace.get_current_span(here) is self._span


def still_open(here: context.Context) -> context.Context:
    """`here`, without transactions that are over: of one that is left in another thread or task than it was entered in,
    or before one that was entered later, the span stays current."""
    while isinstance(transaction := here.get(_INNERMOST), TransactionSpan) and transaction.lingers(here):
        here = transaction.around
    return here
