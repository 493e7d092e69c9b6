"""The standard health service, `grpc.health.v1.Health`.

That of grpcio-health-checking sends to watchers under the lock that a watcher needs to leave. Sending waits until the
watcher reads and for the one polling thread of grpcio, and leaving runs on it: so a watcher that left in the wrong
moment, or does not read, would stop the whole server. Here each Watch has a thread that sends to it alone and holds no
lock meanwhile; whoever has news leaves word, and waits for nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from handfast.chassis.v1.reasons_pb2 import Reason
from handfast.server.chassis.errors import NotFound, reason_name

WATCH = f"/{health.SERVICE_NAME}/Watch"
"""The path of the method that needs threads of its own, one for each watcher."""


class UnknownService(NotFound):
    reason = reason_name(Reason, Reason.REASON_UNKNOWN_SERVICE)

    def __init__(self, service: str) -> None:
        super().__init__(f"This server has no service {service!r}.", service=service)


class Health(HealthServicer):
    """Knows the server as a whole, under the empty name, and each service. Starts as NOT_SERVING.

    A Watch ends when the server stops: it would use up the time that calls in flight have to end.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset((health.OVERALL_HEALTH, *services))
        self._status: int = HealthCheckResponse.NOT_SERVING
        self._stopping = False
        self._lock = threading.Lock()
        self._watchers: set[threading.Event] = set()  # each is set when there is news

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        if request.service not in self._services:
            raise UnknownService(request.service)
        return HealthCheckResponse(status=self._status)

    def Watch(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[HealthCheckResponse]:
        """Tells how things are, and again when that has changed. Who reads slowly misses what did not last."""
        known = request.service in self._services
        told: int | None = None
        news = threading.Event()
        self._watchers.add(news)
        try:
            context.add_callback(news.set)
            while context.is_active():
                stopping = self._stopping  # looked at first, as it is set last
                status = self._status if known else HealthCheckResponse.SERVICE_UNKNOWN
                if status != told:
                    told = status
                    yield HealthCheckResponse(status=status)
                if stopping:
                    return
                news.wait()
                news.clear()
        finally:
            self._watchers.discard(news)

    @staticmethod
    def descriptor() -> ServiceDescriptor:
        return descriptor_pool.Default().FindServiceByName(health.SERVICE_NAME)

    def serve(self) -> None:
        self._turn(HealthCheckResponse.SERVING)

    def pause(self) -> None:
        """Turns everything NOT_SERVING until `serve` is called again."""
        self._turn(HealthCheckResponse.NOT_SERVING)

    def stop(self) -> None:
        """Turns everything NOT_SERVING for good, and lets the watches end once they were told."""
        self._turn(HealthCheckResponse.NOT_SERVING, for_good=True)

    def _turn(self, status: int, *, for_good: bool = False) -> None:
        with self._lock:
            if self._stopping:
                return
            self._status = status
            self._stopping = for_good
        for news in self._watchers.copy():
            news.set()
