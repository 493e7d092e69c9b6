"""A gRPC server with all that the suite expects of one: errors, logs, metrics, health, reflection, orderly stop."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import grpc
import structlog
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from handfast.server.chassis.call import Call, Method, Pool
from handfast.server.chassis.cancellation import Canceller
from handfast.server.chassis.connections import connection_options, max_connections
from handfast.server.chassis.logs import log
from handfast.server.chassis.logs.writer import CallLog
from handfast.server.chassis.operations import reflection
from handfast.server.chassis.operations.endpoint import Endpoint
from handfast.server.chassis.operations.health import WATCH, Health
from handfast.server.chassis.operations.readiness import Check, Readiness
from handfast.server.chassis.pipeline.layer import DEFAULT_MESSAGE_LIMIT, METADATA_LIMIT, CallLayer
from handfast.server.chassis.pipeline.metrics import NO_EXEMPLARS, Metrics
from handfast.server.chassis.pipeline.pools import REFUSALS, CallExecutor, Limiter
from handfast.server.chassis.security.audit import AuditLog
from handfast.server.chassis.security.guard import Guard
from handfast.server.chassis.security.permission import EVERYBODY, Permission
from handfast.server.chassis.security.rate import CallRate
from handfast.server.chassis.security.transport import CertificateMetrics, ServerTls
from handfast.server.chassis.start_errors import DeclarationError, StartError
from handfast.server.process import open_files
from handfast.server.process.addresses import join_address, split_address
from handfast.server.process.processors import keep_to
from handfast.server.process.settings import ServerSettings, flag
from handfast.server.process.supervision import READY, notify

# Whoever asks for these sends little, and at once. Tools keep streams of reflection open, and do nothing with them.
_HEALTH_POOL = Pool("health", 16, queue=None, stream_idle_timeout=5.0)
_REFLECTION_POOL = Pool("reflection", 256, stream_idle_timeout=5.0)
_UNKNOWN_POOL = Pool("unknown", 1)
# These only guard memory: what grpcio itself refuses has no details.
_GRPC_LIMIT = 2 * DEFAULT_MESSAGE_LIMIT
_GRPC_METADATA_LIMIT = 4 * METADATA_LIMIT
_ANY_NUMBER = 2**31 - 1
# In a flood thousands of calls wait, and by default the collector looks at all of them again and again: with these
# thresholds a server completes a tenth more then, and its slowest calls take a third of the time (measured).
_GC_THRESHOLDS = (20_000, 20, 50)
_OF_AUTHENTICATION = ("token_keys", "certificate_grants")
_INTERRUPT_SECONDS = 1.0  # that handlers get to end once they are interrupted

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service to serve: its descriptor, its generated `add_…_to_server`, and who answers.

    `domain` names it in errors, such as `handfast.users`. Services that name no pool share the server's `threads`; one
    that others wait for while they serve a call needs a pool of its own. `pool_of` has those of single methods, by
    their names. `own_kinds` are the kinds of resources that belong to subjects, for a service whose requests name
    resources by their kinds.
    """

    descriptor: ServiceDescriptor
    add_to_server: Callable[[Any, grpc.Server], None]
    servicer: object
    domain: str
    pool: Pool | None = None
    pool_of: Mapping[str, Pool] = field(default_factory=dict, hash=False)
    own_kinds: Set[str] = frozenset()


class Background(Protocol):
    """Work beside the calls, in threads of its own."""

    def start(self) -> None: ...

    def stop(self, timeout: float) -> None:
        """Ends the work, within `timeout` seconds."""


class Server:
    """A server of `services`, which starts once.

    settings       where it listens, by which certificates, how many threads serve calls, and so on
    domain         names the server in the errors of calls that reach none of its services, such as `handfast.users`
    services       what it serves, beside health and reflection
    checks         functions that raise while what they look at is away; health says NOT_SERVING meanwhile
    background     what runs while the server does
    on_close       called last, in this order, when no handler runs any more
    interceptors   stand around the handlers of all services, those of health and reflection too, the first one
                   outermost: `grpc.ServerInterceptor`s, or those of the package grpc-interceptor. They see messages,
                   and may raise what a handler may

    Raises SettingsError where a file that says whom to trust cannot be read; DeclarationError where two pools that
    differ have the same name, a method that is given one does not exist, or a contract declares a permission that
    cannot be; and TypeError where an interceptor is something else, such as a class or one for asyncio.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        domain: str,
        services: Sequence[Service],
        checks: Sequence[Check] = (),
        background: Sequence[Background] = (),
        on_close: Sequence[Callable[[], None]] = (),
        interceptors: Sequence[grpc.ServerInterceptor] = (),
    ) -> None:
        for interceptor in interceptors:
            if not isinstance(interceptor, grpc.ServerInterceptor):
                raise TypeError(f"interceptors: {interceptor!r} is no grpc.ServerInterceptor")
        self.settings = settings
        self.port = 0
        self.metrics_port = 0
        self._on_close = on_close
        self._started_background: list[Background] = []
        self._endpoint: Endpoint | None = None

        names = [service.descriptor.full_name for service in services]
        self._health = Health(names)
        operations = self._operations(domain, names)
        main_pool = Pool("calls", settings.threads, settings.queue, settings.stream_idle_timeout)
        methods: dict[str, Method] = {}
        for service in services:
            if unknown_names := sorted(service.pool_of.keys() - service.descriptor.methods_by_name.keys()):
                name = service.descriptor.full_name
                raise DeclarationError(f"services: {name} has no method {', '.join(unknown_names)} to give a pool")
            for descriptor in service.descriptor.methods:
                pool = service.pool_of.get(descriptor.name) or service.pool or main_pool
                method = _method(descriptor, service, pool, settings.name)
                methods[method.path] = method
        own_pools = {method.pool for method in methods.values()} - {main_pool}
        for service, permission in operations.items():
            for descriptor in service.descriptor.methods:
                method = Method.of(descriptor, service.domain, service.pool or main_pool)
                methods[method.path] = replace(method, refused_keys=frozenset(), permission=permission, writes=False)
        methods[WATCH] = replace(methods[WATCH], pushes=True)
        scopes = {scope for method in methods.values() if method.permission for scope in method.permission.scopes}
        authenticator = None
        if settings.authentication != "off":
            # Here, as what it imports, cryptography above all, takes 25 ms of a start.
            from handfast.server.chassis.security.authenticator import Authenticator

            authenticator = Authenticator(settings, scopes)
        self._background = background if authenticator is None else (authenticator, *background)
        unknown = Method("", "unknown", "unknown", "unknown", domain, _UNKNOWN_POOL)

        self._draining = ([main_pool], own_pools, [REFUSALS])
        pools = {main_pool, *(method.pool for method in (*methods.values(), unknown))}
        for name, count in Counter(pool.name for pool in (*pools, REFUSALS)).items():
            if count > 1:
                raise DeclarationError(f"services: two different pools are called {name!r}")
        self._limiter = limiter = Limiter(pools, (*methods.values(), unknown))
        self.canceller = Canceller(limiter.awaited)
        self._tracing = None
        if settings.tracing:
            from handfast.server.chassis.tracing.calls import CallTracing

            self._tracing = CallTracing()
        self.metrics = Metrics(limiter, NO_EXEMPLARS if self._tracing is None else self._tracing.exemplars)
        guard = None
        audit: tuple[Callable[[Call], None], ...] = ()
        if authenticator is not None:
            authenticator.register(self.metrics.registry)
            checks = (*checks, *authenticator.checks)
            enforced = settings.authentication == "enforce"
            rate = CallRate.of(settings)
            guard = Guard(authenticator, rate, enforced=enforced, registry=self.metrics.registry)
            audit = (AuditLog(settings.name).ended,)
        self._tls = ServerTls(settings) if settings.tls_certificate else None
        CertificateMetrics(settings, self._tls, self.metrics.registry)
        self._readiness = Readiness(self._health, checks, self.metrics.registry)
        log_call = CallLog(settings.name, settings.log_level).ended
        # What is logged of a call names its span.
        traced = () if self._tracing is None else (self._tracing.ended,)
        on_record = (limiter.release, self.canceller.forget, *traced, log_call, *audit)
        on_begin = None if self._tracing is None else self._tracing.begin
        layer = CallLayer(methods, unknown, limiter, self.canceller, interceptors, guard, on_begin)
        self._executor = CallExecutor(limiter, self.canceller, layer.check_headers, on_record)
        self._grpc = grpc.server(
            self._executor,  # type: ignore[arg-type]  # grpcio uses no more of it than any Executor has
            interceptors=[layer, *interceptors],
            options=(
                ("grpc.so_reuseport", 0),  # or a second server would take the same port, and half of the calls
                ("grpc.max_receive_message_length", _GRPC_LIMIT),
                ("grpc.max_send_message_length", _GRPC_LIMIT),
                ("grpc.max_metadata_size", _GRPC_METADATA_LIMIT),  # from here on it would refuse at random, up to
                ("grpc.absolute_max_metadata_size", _GRPC_METADATA_LIMIT),
                *connection_options(settings),
                *_flood_limits(main_pool),
            ),
        )
        for service in (*services, *operations):
            service.add_to_server(service.servicer, self._grpc)

    def run(self, stop: threading.Event) -> None:
        """Serves until `stop` is set, then drains. Raises StartError. For a process of its own: it configures the
        log and the garbage collector of the whole process, and keeps the calling thread to the server's processor."""
        keep_to(self.settings.processor)  # as all threads that are started from here on
        writer = log.configure(self.settings.name, self.settings.log_level)
        keep_to(self.settings.processor, writer.thread)  # which may run since before
        threading.excepthook = log.log_end_of_thread
        try:
            self.start()
            gc.freeze()  # what is there now stays to the end: the collector need not look at it, even at the end
            gc.set_threshold(*_GC_THRESHOLDS)
            notify(READY)
            stop.wait()
            notify("STOPPING=1")
            self.stop()
        finally:
            writer.flush()

    def start(self) -> None:
        """Serves, in threads of its own. Raises StartError; nothing runs then."""
        try:
            self._bind()
            if self._tracing is not None:
                self._tracing.serve_at(split_address(self.settings.listen)[0], self.port)
            self._serve_metrics()
            for background in self._background:
                background.start()
                self._started_background.append(background)
        except BaseException:
            self._executor.stop(0)
            self._grpc.stop(0)
            self._close(0)
            raise
        self.canceller.start()
        self._grpc.start()
        self._readiness.start()
        _log.info("serving", address=self.address, metrics=self.metrics_url)
        if (possible := max_connections(self.settings)) < self.settings.max_connections:
            files = open_files.limit()
            _log.warning("this process may open too few files for its connections", files=files, connections=possible)
        idle = [flag(each) for each in _OF_AUTHENTICATION if getattr(self.settings, each)]
        if idle and self.settings.authentication == "off":
            _log.warning("nobody is asked who calls, as authentication is off", without_effect=idle)

    def stop(self) -> None:
        """Finishes what is in flight, for `grace` seconds at most, and closes. A handler that will not end is left."""
        grace = self.settings.grace
        now = time.monotonic()
        end = now + grace
        self._readiness.stop()
        # Clients that watch health leave now. They are served until they have, so that no call of theirs is refused.
        self._limiter.wait_for_quiet(grace, since_s=now if self._health.is_watched else 0.0)
        # Others are refused before grpcio stops, which cancels what comes in that moment. Pools of their own follow:
        # until then calls in flight may need them, as when a peer asks back.
        drained = all(self._limiter.drain(pools, end - time.monotonic()) for pools in self._draining)
        if not drained:
            self.canceller.interrupt_all()  # what waits is woken, and tells its caller to come again
            drained = self._limiter.drain([pool for pools in self._draining for pool in pools], _INTERRUPT_SECONDS)
        self._limiter.wait_for_quiet(end - time.monotonic())
        self._health.end_watches()  # or grpcio would wait for them
        if not self._grpc.stop(2 * _INTERRUPT_SECONDS).wait(_INTERRUPT_SECONDS if drained else 0):
            self._executor.server_stopped = True
            self._grpc.stop(0).wait(_INTERRUPT_SECONDS)
        if not self._executor.stop(_INTERRUPT_SECONDS):
            _log.warning("some handlers did not end within the grace period", grace=grace)
        self._close(max(_INTERRUPT_SECONDS, end - time.monotonic()))
        _log.info("stopped")

    def _close(self, timeout: float) -> None:
        """Ends what runs beside calls, in `timeout` seconds in all, and then closes what they used."""
        end = time.monotonic() + timeout
        endpoint = () if self._endpoint is None else (self._endpoint.close,)  # before the databases, which it asks
        ends = [partial(_end_by, background, end) for background in self._started_background]
        for close in (*ends, *endpoint, *self._on_close, self.canceller.stop):
            try:
                close()
            except Exception:
                _log.exception("something did not close as it should")

    @property
    def address(self) -> str:
        return join_address(split_address(self.settings.listen)[0], self.port)

    @property
    def metrics_url(self) -> str:
        host = split_address(self.settings.metrics_listen)[0]
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{join_address(host, self.metrics_port)}/metrics"

    def _operations(self, domain: str, names: Sequence[str]) -> dict[Service, Permission]:
        """What every server serves for those who run it, and for whom. Each with threads of its own: a held stream of
        one must not keep another from answering."""
        find = descriptor_pool.Default().FindServiceByName
        health, v1alpha = find("grpc.health.v1.Health"), find("grpc.reflection.v1alpha.ServerReflection")
        v1 = reflection.v1_descriptor()
        reflects = reflection.servicer((*names, health.full_name))
        add_v1alpha = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add_health = health_pb2_grpc.add_HealthServicer_to_server
        operations = {Service(health, add_health, self._health, domain, _HEALTH_POOL): EVERYBODY}
        if (scope := self.settings.reflection) != "off":
            those_who_may = EVERYBODY if scope == "open" else Permission(frozenset({scope}))
            operations |= {
                Service(v1, reflection.add_v1_to_server, reflects, domain, _REFLECTION_POOL): those_who_may,
                Service(v1alpha, add_v1alpha, reflects, domain, _REFLECTION_POOL): those_who_may,
            }
        return operations

    def _bind(self) -> None:
        address = self.settings.listen
        host, port = split_address(address)
        try:
            # Says what is wrong, where grpcio would print several lines and raise one without the cause.
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with contextlib.closing(socket.create_server((host, port), family=family)):
                pass
            if self._tls is None:
                self.port = self._grpc.add_insecure_port(address)
            else:
                self.port = self._grpc.add_secure_port(address, self._tls.credentials())
        except (OSError, RuntimeError) as error:
            raise StartError(f"cannot listen on {address}: {_reason(error)}") from error

    def _serve_metrics(self) -> None:
        address = self.settings.metrics_listen
        registry, is_ready = self.metrics.registry, lambda: self._readiness.serving
        try:
            self._endpoint = Endpoint(*split_address(address), registry, is_ready, self._tls)
        except OSError as error:
            raise StartError(f"cannot serve metrics on {address}: {_reason(error)}") from error
        self.metrics_port = self._endpoint.port


def _method(descriptor: MethodDescriptor, service: Service, pool: Pool, server: str) -> Method:
    try:
        return Method.of(descriptor, service.domain, pool, server, service.own_kinds)
    except ValueError as error:
        raise DeclarationError(str(error)) from None


def _end_by(background: Background, end: float) -> None:
    background.stop(max(0.0, end - time.monotonic()))


def _flood_limits(pool: Pool) -> tuple[tuple[str, int], ...]:
    """Options with which no call ends without an answer of ours. A connection has a number of streams, and a client
    waits with calls beyond that, as HTTP/2 has it. grpcio keeps all others until its polling thread comes to them. By
    default it would drop some, without details and uncounted: at random when 1000 wait, after 30 s, and while streams
    that have ended still take memory.
    """
    return (
        ("grpc.max_concurrent_streams", max(128, 2 * int(pool.limit))),
        ("grpc.http.overload_protection", 0),
        ("grpc.server.max_pending_requests", _ANY_NUMBER),
        ("grpc.server_max_unrequested_time_in_server", _ANY_NUMBER),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):  # whose numbers are not those of other errors
        return str(error.strerror)
    # Python repeats the address in the text of the error.
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
