"""Prometheus metrics with the names, labels and casing of go-grpc-middleware, so that dashboards made for it work."""

from __future__ import annotations

import socket
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import Any
from wsgiref.simple_server import WSGIServer

import grpc
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from handfast.server.chassis.call import Call, Method
from handfast.server.chassis.pipeline.pools import Limiter
from handfast.server.chassis.pipeline.status_codes import GO_NAMES

METRICS_TIMEOUT = 10.0
"""Seconds that a connection to `/metrics` may keep its thread waiting."""
_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BOUNDS = (*map(str, _BUCKETS), "+Inf")


class _Counts:
    """Of one method. `buckets` has how many calls took up to each of `_BUCKETS`, but longer than the one before."""

    def __init__(self) -> None:
        self.started = self.received = self.sent = 0
        self.handled = dict.fromkeys(grpc.StatusCode, 0)
        self.seconds = 0.0
        self.buckets = [0] * (len(_BUCKETS) + 1)


class Metrics(Collector):
    """One server's metrics, in a registry of their own; further ones can be registered there.

    Calls are counted here, under one lock, and shown when somebody asks: each of five instruments of the Prometheus
    client would take a lock of its own, and be most of what counting costs.
    """

    def __init__(self, methods: Iterable[Method]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double every scrape, to nobody's use
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._lock = threading.Lock()
        self._counts = {method: _Counts() for method in methods}  # every series exists from the start, at 0
        self.registry.register(self)

    def started(self, method: Method) -> None:
        with self._lock:
            self._counts[method].started += 1

    def ended(self, call: Call) -> None:
        counts = self._counts[call.method]
        assert call.code is not None
        with self._lock:
            counts.handled[call.code] += 1
            counts.seconds += call.seconds
            counts.buckets[bisect_left(_BUCKETS, call.seconds)] += 1
            counts.received += call.received
            counts.sent += call.sent

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
        with self._lock:
            for method, counts in self._counts.items():
                labels = (method.type, method.service, method.name)
                started.add_metric(labels, counts.started)
                received.add_metric(labels, counts.received)
                sent.add_metric(labels, counts.sent)
                seconds.add_metric(labels, list(zip(_BOUNDS, accumulate(counts.buckets), strict=True)), counts.seconds)
                for code, count in counts.handled.items():
                    handled.add_metric((*labels, GO_NAMES[code]), count)
        yield from (started, handled, received, sent, seconds)


class _LimiterCollector(Collector):
    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def collect(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "handfast_calls_in_flight", "Calls that arrived and have not ended, queued or at work.", labels=["pool"]
        )
        limit = GaugeMetricFamily(
            "handfast_calls_limit", "How many of them the pool takes before it refuses further ones.", labels=["pool"]
        )
        shed = CounterMetricFamily(
            "handfast_calls_shed", "Calls refused since the pool had as many as it takes.", labels=["pool"]
        )
        for pool in self._limiter.pools:
            in_flight.add_metric([pool.name], self._limiter.in_flight(pool))
            limit.add_metric([pool.name], pool.limit)
            shed.add_metric([pool.name], self._limiter.shed(pool))
        yield from (in_flight, limit, shed)


def export_limiter(limiter: Limiter, registry: CollectorRegistry) -> None:
    registry.register(_LimiterCollector(limiter))


def _only_metrics(app: Callable[..., Any] | None) -> Callable[..., Any]:
    """Prometheus' own answers any path, and so would any probe be answered that looks for something else."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if app is not None and environ["PATH_INFO"] == "/metrics":
            return app(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There is only /metrics. Health is grpc.health.v1, on the server's own port.\n"]

    return answer


def _for_a_while(handler: Any) -> Any:
    """Each connection has a thread of its own. This ends those that do not say what they want, or do not take it."""

    class Handler(handler):  # type: ignore[misc]
        timeout = METRICS_TIMEOUT

        def handle(self) -> None:
            with suppress(TimeoutError):
                super().handle()

    return Handler


class MetricsEndpoint:
    """Serves `/metrics` by HTTP. Raises OSError where the address cannot be had; port 0 takes any free one."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        server: WSGIServer
        thread: threading.Thread
        server, thread = start_http_server(port, host, registry)
        server.set_app(_only_metrics(server.get_app()))
        server.RequestHandlerClass = _for_a_while(server.RequestHandlerClass)
        self._server, self._thread = server, thread
        self.port = server.server_port

    def close(self) -> None:
        with suppress(OSError):  # where a socket that listens cannot be shut down, as on macOS, it takes half a second
            self._server.socket.shutdown(socket.SHUT_RDWR)  # which wakes the thread that waits for a connection there
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
