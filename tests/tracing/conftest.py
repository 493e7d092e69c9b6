from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from handfast.server.chassis.tracing import spans
from handfast.server.chassis.tracing.sampler import ByRatio


class Recorded:
    """What the tests' own process records."""

    def __init__(self, provider: TracerProvider) -> None:
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("tests")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """Those that have ended, in this order."""
        return self._exporter.get_finished_spans()

    def clear(self) -> None:
        self._exporter.clear()


@pytest.fixture
def sampler() -> ByRatio | None:
    """That of the servers, which a test may give; None for that of an application, which knows nothing of it."""
    return None


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, sampler: ByRatio | None) -> Iterator[Recorded]:
    """As an application would do by `trace.set_tracer_provider`, which a process can do only once."""
    provider = TracerProvider(sampler, id_generator=None if sampler is None else sampler.ids)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(spans, "recorder", None)
    yield Recorded(provider)
    provider.shutdown()
