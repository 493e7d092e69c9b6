"""What a server serves by HTTP beside its calls: `/metrics`, and `/livez` and `/readyz` for probes.

By TLS where the server has it. With mutual TLS, metrics are for those who have a certificate. Probes, such as those of
Kubernetes, have none, and learn nothing but whether the server is there.
"""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from handfast.server.chassis.security.transport import ServerTls

TIMEOUT = 10.0
"""Seconds that a connection may last, from its beginning to the end of the answer."""
MAX_CONNECTIONS = 64
"""Connections at a time; beyond that each new one ends the oldest."""
_HAS_CERTIFICATE = "handfast.has_certificate"
_log = structlog.get_logger()


class Endpoint:
    """Serves `/metrics`, `/livez` and `/readyz`; the last with 503 where `is_ready` says no.

    Raises OSError where the address cannot be had; port 0 takes any free one.
    """

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, is_ready: Callable[[], bool], tls: ServerTls | None
    ) -> None:
        self._metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)
        self._is_ready, self._mutual = is_ready, tls is not None and tls.mutual
        self._server = _Server(host, port, tls)
        self._server.set_app(self._answer)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):  # where a socket that listens cannot be shut down, as on macOS, it takes half a second
            self._server.socket.shutdown(socket.SHUT_RDWR)  # which wakes the thread that waits for a connection there
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics" if self._mutual and not environ[_HAS_CERTIFICATE]:
                status, text = "403 Forbidden", "Metrics are for those who have a client certificate."
            case "/metrics":
                try:
                    return self._metrics(environ, start_response)
                except Exception:
                    _log.exception("metrics cannot be told")
                    raise
            case "/livez":
                status, text = "200 OK", "ok"
            case "/readyz" if self._is_ready():
                status, text = "200 OK", "ok"
            case "/readyz":
                status, text = "503 Service Unavailable", "not ready"
            case _:
                status, text = "404 Not Found", "There are only /metrics, /livez and /readyz. Calls have another port."
        body = f"{text}\n".encode()
        start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]


class _Handler(WSGIRequestHandler):
    timeout = TIMEOUT

    def handle(self) -> None:
        with suppress(OSError):  # the timeout, and callers who leave
            super().handle()

    def get_environ(self) -> dict[str, Any]:
        certificate = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        return super().get_environ() | {_HAS_CERTIFICATE: bool(certificate)}

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def get_stderr(self) -> io.StringIO:
        """Where wsgiref writes a traceback of each caller who leaves or is slow: nowhere."""
        return io.StringIO()


class _Server(ThreadingMixIn, WSGIServer):
    """Each connection has a thread of its own, on which it shakes hands, too.

    Whoever can reach the port may open connections and be slow, so they are bounded in number and in time. Beyond the
    number the oldest goes: a probe takes milliseconds, so it is answered also while others open hundreds a second.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, tls: ServerTls | None) -> None:
        if host == "0.0.0.0" and socket.has_dualstack_ipv6():
            host = "::"  # all addresses of this machine, those of IPv6 too, as gRPC takes it for calls
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._tls = tls
        self._lock = threading.Lock()
        self._ends_monotonic_s: dict[socket.socket, float] = {}  # the oldest connection first
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        return (connection if self._tls is None else self._tls.secure(connection)), address

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._ends_monotonic_s) >= MAX_CONNECTIONS:
                self._end_oldest()
        self._free.acquire()  # until the thread of one that ends is done
        with self._lock:
            self._ends_monotonic_s[request] = time.monotonic() + TIMEOUT
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with suppress(OSError):  # of who does not get in
            if isinstance(request, ssl.SSLSocket):
                request.settimeout(TIMEOUT)
                request.do_handshake()
            super().finish_request(request, client_address)

    def close_request(self, request: Any) -> None:
        with self._lock:  # it must not be ended any more once its descriptor may be another's
            self._ends_monotonic_s.pop(request, None)
        super().close_request(request)
        self._free.release()

    def service_actions(self) -> None:
        """Called after each connection, and twice a second."""
        with self._lock:
            while self._ends_monotonic_s and next(iter(self._ends_monotonic_s.values())) <= time.monotonic():
                self._end_oldest()

    def _end_oldest(self) -> None:
        connection = next(iter(self._ends_monotonic_s))
        del self._ends_monotonic_s[connection]
        with suppress(OSError):  # which has ended by itself
            # Wakes its thread. Where that speaks TLS, what it still writes must not go out in plain text.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
