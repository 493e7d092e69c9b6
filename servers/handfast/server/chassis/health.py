"""The standard health service, `grpc.health.v1.Health`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

SendReply = Callable[[HealthCheckResponse | None], None]


class Health(health.HealthServicer):
    """Knows the server as a whole, under the empty name, and each service. Starts as NOT_SERVING.

    A Watch holds no thread, and ends when the server stops: it would use up the time that calls in flight have to end.
    """

    def __init__(self, services: Iterable[str]) -> None:
        super().__init__(experimental_non_blocking=True)
        self._services = (health.OVERALL_HEALTH, *services)
        self._watchers_lock = threading.Lock()
        self._watchers: set[SendReply] = set()
        self.pause()

    def Watch(  # type: ignore[override]  # always called in grpcio's non-blocking mode
        self, request: HealthCheckRequest, context: grpc.ServicerContext, send_response_callback: SendReply
    ) -> None:
        def forget() -> None:
            with self._watchers_lock:
                self._watchers.discard(send_response_callback)

        with self._watchers_lock:
            self._watchers.add(send_response_callback)
        if not context.add_callback(forget):
            forget()
            return
        super().Watch(request, context, send_response_callback)

    @staticmethod
    def descriptor() -> ServiceDescriptor:
        return descriptor_pool.Default().FindServiceByName(health.SERVICE_NAME)

    def serve(self) -> None:
        self._set_all(HealthCheckResponse.SERVING)

    def pause(self) -> None:
        """Turns everything NOT_SERVING until `serve` is called again."""
        self._set_all(HealthCheckResponse.NOT_SERVING)

    def _set_all(self, status: int) -> None:
        for service in self._services:
            self.set(service, status)

    def stop(self) -> None:
        """Turns everything NOT_SERVING for good, and ends the watches once they were told."""
        self.enter_graceful_shutdown()
        with self._watchers_lock:
            watchers = tuple(self._watchers)
        for send in watchers:
            send(None)
