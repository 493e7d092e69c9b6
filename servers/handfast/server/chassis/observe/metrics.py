"""Prometheus metrics with the names, labels and casing of go-grpc-middleware, so that dashboards made for it work."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any
from wsgiref.simple_server import WSGIServer

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from handfast.server.chassis.call import Method
from handfast.server.chassis.observe.load import Load
from handfast.server.chassis.observe.record import Record
from handfast.server.chassis.observe.status_codes import GO_NAMES

METRICS_TIMEOUT = 10.0
"""Seconds that a connection to `/metrics` may keep its thread waiting."""
_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One server's metrics, in a registry of their own; further ones can be registered there."""

    def __init__(self, methods: Iterable[Method]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double every scrape, to nobody's use
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        started = Counter("grpc_server_started", "Calls that arrived.", _LABELS, registry=self.registry)
        handled = Counter(
            "grpc_server_handled", "Calls that ended, by status code.", (*_LABELS, "grpc_code"), registry=self.registry
        )
        received = Counter("grpc_server_msg_received", "Request messages.", _LABELS, registry=self.registry)
        sent = Counter("grpc_server_msg_sent", "Reply messages.", _LABELS, registry=self.registry)
        seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from a call's arrival to its end, the time in the queue included.",
            _LABELS,
            registry=self.registry,
            buckets=_BUCKETS,
        )
        # Resolving labels costs more than counting, so it is done here; every series exists from the start, at 0.
        self._started = {}
        self._handled = {}
        self._received = {}
        self._sent = {}
        self._seconds = {}
        for method in methods:
            labels = (method.type, method.service, method.name)
            self._started[method] = started.labels(*labels)
            self._received[method] = received.labels(*labels)
            self._sent[method] = sent.labels(*labels)
            self._seconds[method] = seconds.labels(*labels)
            for code in grpc.StatusCode:
                self._handled[method, code] = handled.labels(*labels, GO_NAMES[code])

    def started(self, method: Method) -> None:
        self._started[method].inc()

    def ended(self, record: Record) -> None:
        method, code = record.call.method, record.code
        assert code is not None
        self._handled[method, code].inc()
        self._seconds[method].observe(record.seconds)
        if record.received:
            self._received[method].inc(record.received)
        if record.sent:
            self._sent[method].inc(record.sent)


class _LoadCollector(Collector):
    def __init__(self, load: Load) -> None:
        self._load = load

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
        for pool in self._load.pools:
            in_flight.add_metric([pool.name], self._load.in_flight(pool))
            limit.add_metric([pool.name], pool.limit)
            shed.add_metric([pool.name], self._load.shed(pool))
        yield from (in_flight, limit, shed)


def export_load(load: Load, registry: CollectorRegistry) -> None:
    registry.register(_LoadCollector(load))


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
