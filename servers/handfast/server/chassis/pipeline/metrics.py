"""Prometheus metrics with the names, labels and casing of go-grpc-middleware, so that dashboards made for it work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import Any, TypeAlias

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from handfast.server.chassis.call import Method
from handfast.server.chassis.logs.writer import GO_NAMES
from handfast.server.chassis.pipeline.pools import DURATIONS_S, Limiter
from handfast.server.chassis.versions import versions

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_BOUNDS = (*map(str, DURATIONS_S), "+Inf")
Exemplars: TypeAlias = Mapping[tuple[Method, int], Exemplar]
NO_EXEMPLARS: Exemplars = MappingProxyType({})


class Metrics(Collector):
    """One server's metrics, in a registry of their own; further ones can be registered there. What the limiter has
    counted is shown when somebody asks. `exemplars` are traces of calls that took so long, by method and bucket: shown
    to those who ask for the format of OpenMetrics, as Prometheus does."""

    def __init__(self, limiter: Limiter, exemplars: Exemplars = NO_EXEMPLARS) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double every scrape, to nobody's use
        self._limiter, self._exemplars = limiter, exemplars
        self.registry = CollectorRegistry(auto_describe=True)  # so that `/metrics?name[]=…` finds any by its name
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        Info("handfast_build", "The versions of what the server runs on.", registry=self.registry).info(versions())
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        started = CounterMetricFamily("grpc_server_started", "Calls that arrived.", labels=_LABELS)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls that ended, by status code.", labels=(*_LABELS, "grpc_code")
        )
        received = CounterMetricFamily("grpc_server_msg_received", "Request messages.", labels=_LABELS)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Reply messages.", labels=_LABELS)
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds",
            "Time from a call's arrival to its end, the time in the queue included.",
            labels=_LABELS,
        )
        with self._limiter.lock:
            for method, counts in self._limiter.methods.items():
                labels = (method.type, method.service, method.name)
                started.add_metric(labels, counts.started)
                received.add_metric(labels, counts.received)
                sent.add_metric(labels, counts.sent)
                exemplars = (self._exemplars.get((method, bucket)) for bucket in range(len(_BOUNDS)))
                durations: list[Any] = list(zip(_BOUNDS, accumulate(counts.durations), exemplars, strict=True))
                seconds.add_metric(labels, durations, counts.seconds)
                for code, count in counts.handled.items():
                    handled.add_metric((*labels, GO_NAMES[code]), count)
        yield from (started, handled, received, sent, seconds)
        in_flight = GaugeMetricFamily(
            "handfast_calls_in_flight", "Calls that are there and have not ended, queued or at work.", labels=["pool"]
        )
        awaited = GaugeMetricFamily(
            "handfast_calls_awaited", "Calls that began, and whose request has not come.", labels=["pool"]
        )
        limit = GaugeMetricFamily(
            "handfast_calls_limit", "How many of them the pool takes before it refuses further ones.", labels=["pool"]
        )
        shed = CounterMetricFamily(
            "handfast_calls_shed", "Calls refused since the pool had as many as it takes.", labels=["pool"]
        )
        for pool in self._limiter.pools:
            in_flight.add_metric([pool.name], self._limiter.in_flight[pool.name])
            awaited.add_metric([pool.name], self._limiter.awaited[pool.name])
            limit.add_metric([pool.name], pool.limit)
            shed.add_metric([pool.name], self._limiter.shed[pool.name])
        yield from (in_flight, awaited, limit, shed)
