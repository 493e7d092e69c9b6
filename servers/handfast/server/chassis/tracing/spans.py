"""What is a span within a call, for those who know nothing of OpenTelemetry. Without tracing all of this does nothing.

Spans say what is done and how that ends, and nothing of requests and rows: ids of transactions are all that they name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import Protocol

from handfast.client.tracing.attributes import OUTCOME, TRANSACTION_ID

Attributes = Mapping[str, str | int]
Span = AbstractContextManager[object]


class Phase(Enum):
    """Of a transaction: one after which the next follows later, elsewhere."""

    STAGE = "stage"
    DECIDE = "decide"


class Recorder(Protocol):
    """What makes the spans (`recorder.py`)."""

    def phase(self, phase: Phase, attributes: Attributes) -> Span: ...

    def later(self, name: str, after: Phase, transaction_ids: Collection[str]) -> Span: ...


NO_SPAN: Span = nullcontext()
recorder: Recorder | None = None
"""Of this process; None without tracing."""


def stage_span(transaction_id: str) -> Span:
    """A block in which a write is staged."""
    return NO_SPAN if recorder is None else recorder.phase(Phase.STAGE, {TRANSACTION_ID: transaction_id})


def decide_span(transaction_id: str, outcome: str) -> Span:
    """A block in which it is decided that a transaction has this outcome, unless it has one already."""
    if recorder is None:
        return NO_SPAN
    return recorder.phase(Phase.DECIDE, {TRANSACTION_ID: transaction_id, OUTCOME: outcome})


def later_span(name: str, after: Phase, transaction_ids: Collection[str]) -> Span:
    """A block in which something is done for transactions that went through a phase before, in other calls: it is
    linked to what these did here."""
    return NO_SPAN if recorder is None else recorder.later(name, after, transaction_ids)
