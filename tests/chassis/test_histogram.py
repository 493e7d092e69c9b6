"""A histogram of the chassis says what one of the Prometheus client would."""

from __future__ import annotations

from collections.abc import Sequence

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from handfast.server.chassis.histogram import Histogram

NAME, TEXT, BOUNDS = "handfast_seconds", "How long it took.", (0.001, 0.5, 1, 300.0)
AMOUNTS = (0.0, 0.0005, 0.001, 0.0011, 0.5, 1.0, 299.0, 300.0, 301.0)


@pytest.fixture(autouse=True)
def _no_times_of_creation() -> None:
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("amounts", [(), AMOUNTS])
def test_one_without_a_label(amounts: Sequence[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram(ours, NAME, TEXT, BOUNDS)
    expected = prometheus_client.Histogram(NAME, TEXT, buckets=BOUNDS, registry=theirs)
    for amount in amounts:
        histogram.observe(amount)
        expected.observe(amount)
    assert generate_latest(ours) == generate_latest(theirs)


@pytest.mark.parametrize("amounts", [(), AMOUNTS])
def test_one_with_a_label(amounts: Sequence[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram(ours, NAME, TEXT, BOUNDS, "outcome", ["committed", "aborted"])
    expected = prometheus_client.Histogram(NAME, TEXT, ("outcome",), buckets=BOUNDS, registry=theirs)
    for outcome in ("committed", "aborted"):
        expected.labels(outcome)
    for amount in amounts:
        histogram.observe(amount, "committed")
        expected.labels("committed").observe(amount)
    assert generate_latest(ours) == generate_latest(theirs)
