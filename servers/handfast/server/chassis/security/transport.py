"""The certificates of a server, for its connections: read again when their files change.

A set that cannot be used, such as a new certificate whose key is not there yet, is logged and counted, and the last
good one stays. The files are looked at as each connection begins, and when metrics are read; so nothing has to be told
when certificates are renewed. Connections that are open keep what they began with, until they are as old as
`max_connection_age`.
"""

from __future__ import annotations

import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from handfast.server.chassis.security.sources import file_version
from handfast.server.process.certificates import Certificates
from handfast.server.process.settings import ServerSettings, SettingsError

RETRY_INTERVAL = 10.0
"""Seconds after which files that could not be used are tried again though they have not changed."""
SESSION_LIFETIME = 600.0
"""Seconds in which a caller that connects again may take up its earlier session of TLS, which does not show its
certificate again."""
SETTLING = 0.5
"""Seconds after which a connection that has asked for certificates is taken to hold them. It takes some microseconds,
and as long as its thread has to wait for a processor meanwhile, which nothing bounds: a machine that stops this one
thread for longer, in the moment of a change, can still have the process crash."""
_OWN = ("tls_certificate", "tls_key", "tls_client_ca")
_OF_PEERS = ("peer_certificate", "peer_key", "peer_ca")

Used = TypeVar("Used")
_log = structlog.get_logger()


class _Watched(Generic[Used]):
    """What `make` gives of the certificates that `load` reads from the files at `paths`, made anew when these have
    changed. Usable from any thread; one that finds a change has the others wait until it is read.

    Raises SettingsError where they cannot be used from the beginning.
    """

    def __init__(
        self, paths: Sequence[str], load: Callable[[], Certificates | None], make: Callable[[Certificates], Used]
    ) -> None:
        self._paths, self._load, self._make = [path for path in paths if path], load, make
        self._lock = threading.Lock()
        self._retry_at_monotonic_s = math.inf
        self.failures = 0
        self._versions = self._find_versions()
        self.certificates, self._used = self._read()

    def current(self) -> Used:
        with self._lock:
            versions = self._find_versions()
            if versions != self._versions or time.monotonic() >= self._retry_at_monotonic_s:
                self._versions = versions  # found before the files are read, so that no change is missed
                self._read_again()
            return self._used

    def _read_again(self) -> None:
        try:
            self.certificates, self._used = self._read()
        except (SettingsError, OSError) as error:  # an error of ssl is an OSError
            self.failures += 1
            self._retry_at_monotonic_s = time.monotonic() + RETRY_INTERVAL
            _log.error("new certificates cannot be used, the last good ones stay", reason=str(error))
        else:
            self._retry_at_monotonic_s = math.inf
            _log.info("certificates were read anew", files=self._paths)

    def _read(self) -> tuple[Certificates, Used]:
        certificates = self._load()
        assert certificates is not None, "the settings name files"
        return certificates, self._make(certificates)

    def _find_versions(self) -> list[object]:
        return [file_version(path) for path in self._paths]


@dataclass(frozen=True, slots=True)
class _Secured:
    """The same certificates for each of the two ports of a server."""

    calls: grpc.ServerCertificateConfiguration
    metrics: ssl.SSLContext


class _Handover:
    """Tells gRPC which certificates the connections to come have, where these are not those that it has.

    gRPC asks for each connection, one at a time, and goes by what it has where the answer is None. When it gets others
    it destroys that, though a connection that asked just before may not hold it yet, and the process would crash
    (https://github.com/grpc/grpc/issues/36693). So others are given `SETTLING` after the last connection has asked.
    Those that come meanwhile wait, since gRPC holds a lock while it asks.

    gRPC takes up earlier sessions of TLS, although the certificate of the caller may have expired. Their keys go with
    what gRPC has, so with mutual TLS it is told the same anew every `SESSION_LIFETIME`.
    """

    def __init__(self, current: Callable[[], grpc.ServerCertificateConfiguration], mutual: bool) -> None:
        self._current, self._mutual = current, mutual
        self._told = current()
        self._told_monotonic_s = self._asked_monotonic_s = time.monotonic()

    def credentials(self) -> grpc.ServerCredentials:
        # gRPC keeps what it has, too, where the function raises or gives what does not fit.
        ask: Any = self._ask  # the stubs leave out that the answer may be None
        return grpc.dynamic_ssl_server_credentials(self._told, ask, self._mutual)

    def _ask(self) -> grpc.ServerCertificateConfiguration | None:
        asked = time.monotonic()
        try:
            current = self._current()
            sessions_end = self._mutual and asked >= self._told_monotonic_s + SESSION_LIFETIME
            if current is self._told and not sessions_end:
                return None
            if asked < self._asked_monotonic_s + 10 * SETTLING:  # else those that asked before hold theirs long since
                time.sleep(SETTLING)
            self._told, self._told_monotonic_s = current, asked
            return current
        finally:
            self._asked_monotonic_s = time.monotonic()


class ServerTls:
    """TLS on the ports of a server, by the settings `tls_…`: 1.2 at least for calls, and 1.3 for metrics. Raises
    SettingsError."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.mutual = settings.tls_client_ca != ""
        """Whether callers need a certificate."""
        paths = [getattr(settings, each) for each in _OWN]
        self.watched = _Watched(paths, settings.own_certificates, self._secured)

    def credentials(self) -> grpc.ServerCredentials:
        return _Handover(lambda: self.watched.current().calls, self.mutual).credentials()

    def secure(self, connection: socket.socket) -> ssl.SSLSocket:
        """A connection to the port of metrics, which has yet to shake hands. A caller without a certificate is let in,
        so that it can ask for health; one whose certificate is not good is not. Raises OSError."""
        context = self.watched.current().metrics
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def _secured(self, certificates: Certificates) -> _Secured:
        pair = (certificates.key, certificates.certificate)
        calls = grpc.ssl_server_certificate_configuration([pair], certificates.ca or None)
        metrics = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # No session is taken up again. In 1.2, ssl cannot do without them.
        metrics.minimum_version = ssl.TLSVersion.TLSv1_3
        metrics.num_tickets = 0
        try:
            # ssl takes a key from a file only. If the files have changed meanwhile, they will be read once more.
            metrics.load_cert_chain(self._settings.tls_certificate, self._settings.tls_key)
            if self.mutual:
                metrics.verify_mode = ssl.CERT_OPTIONAL
                metrics.load_verify_locations(self._settings.tls_client_ca)
        except ssl.SSLError as error:
            place = self._settings.tls_certificate
            self._settings.require(
                "tls_certificate", False, f"names {place}, which OpenSSL does not take: {error.reason}"
            )
        return _Secured(calls, metrics)


class CertificateMetrics(Collector):
    """When the certificates in use expire, and how often new ones could not be used."""

    def __init__(self, settings: ServerSettings, tls: ServerTls | None, registry: CollectorRegistry) -> None:
        self._watched: list[_Watched[_Secured] | _Watched[Certificates]] = []
        if tls is not None:
            self._watched.append(tls.watched)
        if settings.peer_ca:
            paths = [getattr(settings, each) for each in _OF_PEERS]
            self._watched.append(_Watched(paths, settings.peer_certificates, lambda certificates: certificates))
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        expiry = GaugeMetricFamily(
            "handfast_certificate_expiry_timestamp_seconds",
            "Unix time at which the certificates in use expire: with those between them and their CA, or the last CA.",
            labels=["role"],
        )
        failures = CounterMetricFamily(
            "handfast_certificate_reload_failures", "Times that new certificates could not be used."
        )
        for watched in self._watched:
            watched.current()
            for setting, time_s in watched.certificates.expiry.items():
                expiry.add_metric([setting], time_s)
        failures.add_metric([], sum(watched.failures for watched in self._watched))
        yield from (expiry, failures)
