"""The standard health service, `grpc.health.v1.Health`.

That of grpcio-health-checking sends to watchers under the lock that a watcher needs to leave. Sending waits for the one
polling thread of grpcio, and leaving runs on it, so a watcher that left in the wrong moment would stop the whole
server. Here nothing is sent under a lock that leaving needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from handfast.chassis.v1.reasons_pb2 import Reason
from handfast.server.chassis.errors import NotFound, reason_name

SendReply = Callable[[HealthCheckResponse | None], None]


class UnknownService(NotFound):
    reason = reason_name(Reason, Reason.REASON_UNKNOWN_SERVICE)

    def __init__(self, service: str) -> None:
        super().__init__(f"This server has no service {service}.", service=service)


@dataclass(eq=False)
class _Watcher:
    """One Watch. `send` takes None to end it; `lock` keeps what it is told in order."""

    service: str
    send: SendReply
    lock: threading.Lock = field(default_factory=threading.Lock)
    told: int | None = None
    ended: bool = False


class Health(HealthServicer):
    """Knows the server as a whole, under the empty name, and each service. Starts as NOT_SERVING.

    A Watch holds no thread, and ends when the server stops: it would use up the time that calls in flight have to end.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset((health.OVERALL_HEALTH, *services))
        self._status: int = HealthCheckResponse.NOT_SERVING
        self._stopping = False
        self._lock = threading.Lock()
        self._watchers: set[_Watcher] = set()

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        if request.service not in self._services:
            raise UnknownService(request.service)
        return HealthCheckResponse(status=self._status)

    def Watch(  # type: ignore[override]  # always called in grpcio's non-blocking mode
        self, request: HealthCheckRequest, context: grpc.ServicerContext, send_response_callback: SendReply
    ) -> None:
        watcher = _Watcher(request.service, send_response_callback)

        def forget() -> None:
            with self._lock:
                self._watchers.discard(watcher)

        with self._lock:
            self._watchers.add(watcher)
        if not context.add_callback(forget):
            forget()
            return
        self._tell(watcher)

    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    @staticmethod
    def descriptor() -> ServiceDescriptor:
        return descriptor_pool.Default().FindServiceByName(health.SERVICE_NAME)

    def serve(self) -> None:
        self._turn(HealthCheckResponse.SERVING)

    def pause(self) -> None:
        """Turns everything NOT_SERVING until `serve` is called again."""
        self._turn(HealthCheckResponse.NOT_SERVING)

    def stop(self) -> None:
        """Turns everything NOT_SERVING for good, and ends the watches once they were told. Waits for none, as a watcher
        may not read.
        """
        with self._lock:
            self._status = HealthCheckResponse.NOT_SERVING
            self._stopping = True
        threading.Thread(target=self._tell_all, name="health-stopping", daemon=True).start()

    def _turn(self, status: int) -> None:
        with self._lock:
            if self._stopping:
                return
            self._status = status
        self._tell_all()

    def _tell_all(self) -> None:
        with self._lock:
            watchers = tuple(self._watchers)
        for watcher in watchers:
            self._tell(watcher)

    def _tell(self, watcher: _Watcher) -> None:
        """How things are now, if that is news."""
        with watcher.lock:
            stopping = self._stopping  # looked at first, as it is set last
            known = watcher.service in self._services
            status = self._status if known else HealthCheckResponse.SERVICE_UNKNOWN
            if status != watcher.told:
                watcher.told = status
                watcher.send(HealthCheckResponse(status=status))
            if stopping and not watcher.ended:
                watcher.ended = True
                watcher.send(None)
