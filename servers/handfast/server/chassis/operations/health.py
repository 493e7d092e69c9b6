"""The standard health service, `grpc.health.v1.Health`.

That of grpcio-health-checking sends to watchers under the lock that a watcher needs to leave. Sending waits until the
watcher reads and for the one polling thread of grpcio, and leaving runs on it: so a watcher that left in the wrong
moment, or does not read, would stop the whole server. Here news is left at each watcher's outlet, and nobody waits; a
watcher costs no thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from handfast.chassis.v1.reasons_pb2 import Reason
from handfast.server.chassis.errors import NotFound, reason_name
from handfast.server.chassis.pipeline.outlet import Outlet

WATCH = f"/{health.SERVICE_NAME}/Watch"
"""The path of the method that pushes."""
LIVENESS = "liveness"
"""The name under which a server is SERVING as long as it can answer: one that waits for its database needs no restart.
Kubernetes suggests this name, and the next, for its probes."""
READINESS = "readiness"
"""Another name for the server as a whole."""


class UnknownService(NotFound):
    reason = reason_name(Reason, Reason.REASON_UNKNOWN_SERVICE)

    def __init__(self, service: str) -> None:
        super().__init__(f"This server has no service {service}.", service=service)


class Health(HealthServicer):
    """The status of the server as a whole, under the empty name, and of each service. All begin as NOT_SERVING."""

    def __init__(self, services: Iterable[str]) -> None:
        self._following = (health.OVERALL_HEALTH, READINESS, *services)
        self._statuses: dict[str, Any] = dict.fromkeys(self._following, HealthCheckResponse.NOT_SERVING)
        self._statuses[LIVENESS] = HealthCheckResponse.SERVING
        self._is_settled = self._has_ended = False
        self._lock = threading.Lock()
        self._watchers: dict[Outlet, str] = {}  # each with what it watches

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        if (status := self._statuses.get(request.service)) is None:
            raise UnknownService(request.service)
        return HealthCheckResponse(status=status)

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:
        # Its types leave this out; versions of grpcio-health-checking that do so, too, do not offer the method.
        response: Any = health_pb2.HealthListResponse  # type: ignore[attr-defined]
        return response(statuses={name: HealthCheckResponse(status=each) for name, each in self._statuses.items()})

    def Watch(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[HealthCheckResponse]:
        """Sends the present status, and each one that follows. A watcher that reads slowly misses those in between."""
        watcher = Outlet(context)
        with self._lock:  # or news could come before what was before it
            watcher.send(self._news(request.service))
            if self._has_ended:
                watcher.end()
            else:
                self._watchers[watcher] = request.service
        if not context.add_callback(leave := partial(self._forget, watcher)):
            leave()
        return iter(())

    def turn(self, *, serving: bool, for_good: bool = False) -> None:
        """Turns everything SERVING or NOT_SERVING. What is turned `for_good` never changes again."""
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        with self._lock:
            if self._is_settled:
                return
            before = self._statuses.copy()
            self._statuses |= dict.fromkeys(self._following, status)
            self._is_settled = for_good
            for watcher, service in self._watchers.copy().items():
                if self._statuses.get(service) != before.get(service):
                    watcher.send(self._news(service))

    @property
    def is_watched(self) -> bool:
        return bool(self._watchers)

    def end_watches(self) -> None:
        """Each ends once its last news has been sent. For a server that takes no more calls: before, clients of gRPC
        would watch again at once, without a pause."""
        with self._lock:
            self._has_ended = True
            for watcher in self._watchers.copy():
                watcher.end()

    def _forget(self, watcher: Outlet) -> None:
        self._watchers.pop(watcher, None)  # without the lock: on grpcio's polling thread nothing may wait

    def _news(self, service: str) -> bytes:
        status = self._statuses.get(service, HealthCheckResponse.SERVICE_UNKNOWN)
        return HealthCheckResponse(status=status).SerializeToString()
