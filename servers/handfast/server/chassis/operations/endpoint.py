"""What a server serves by HTTP beside its calls: `/metrics`, and `/livez` and `/readyz` for probes.

By TLS where the server has it. With mutual TLS, metrics are for those who have a certificate. Probes, such as those of
Kubernetes, have none, and learn nothing but whether the server is there.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from handfast.server.chassis.security.transport import ServerTls

TIMEOUT = 10.0
"""Seconds that a connection may keep its thread waiting."""
_HAS_CERTIFICATE = "handfast.has_certificate"


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
                return self._metrics(environ, start_response)
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
    timeout = TIMEOUT  # ends a connection that sends no request, or does not read the answer

    def handle(self) -> None:
        with suppress(OSError):  # the timeout, and callers who leave
            super().handle()

    def get_environ(self) -> dict[str, Any]:
        certificate = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        return super().get_environ() | {_HAS_CERTIFICATE: bool(certificate)}

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingMixIn, WSGIServer):
    """Each connection has a thread of its own, on which it shakes hands, too."""

    daemon_threads = True

    def __init__(self, host: str, port: int, tls: ServerTls | None) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._tls = tls
        super().__init__((host, port), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        with suppress(OSError):  # of who does not get in
            request.settimeout(TIMEOUT)
            with closing(self._tls.secure(request)) as secured:
                super().finish_request(secured, client_address)
