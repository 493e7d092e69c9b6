"""Sets the SDK of OpenTelemetry up for a process, by the standard variables OTEL_….

The SDK reads most of them by itself. What only its auto-configuration reads, which is not public, is read here: which
exporters there are (OTEL_TRACES_EXPORTER) and which protocol OTLP has (OTEL_EXPORTER_OTLP_PROTOCOL).
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from handfast.server.chassis.start_errors import StartError
from handfast.server.chassis.tracing import environment
from handfast.server.chassis.tracing.environment import RATIO, SAMPLER
from handfast.server.chassis.tracing.sampler import ByRatio

EXPORTERS = "OTEL_TRACES_EXPORTER"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
BY_RATIO = "parentbased_traceidratio"
LAST_SECONDS = 2.0
"""For which a server that stops waits until the last spans are exported."""


@contextmanager
def exporting(service: str) -> Iterator[None]:
    """Within the block the spans of this process are exported, as those of `service` where the environment has no other
    name. Where the program has set up a tracer provider of its own, that stays. Raises StartError."""
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        yield
        return
    provider = _set_up(service)
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # It has no limit of its own, and may wait for a collector that does not answer.
        ending = threading.Thread(target=provider.shutdown, name="tracing", daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)


def check() -> None:
    """Raises StartError where a server could not trace as the environment says."""
    _set_up("").shutdown()


def _set_up(service: str) -> TracerProvider:
    try:
        environment.check()
        return _provider(service)
    except Exception as error:  # some of the SDK's are no ValueError
        raise StartError(f"cannot trace: {error}") from error


def _provider(service: str) -> TracerProvider:
    exporters = _exporters()
    of_process = {SERVICE_NAME: service, SERVICE_INSTANCE_ID: str(uuid.uuid4())}
    resource = Resource.create(of_process).merge(OTELResourceDetector().detect())
    sampler = _sampler()
    ids = sampler.ids if isinstance(sampler, ByRatio) else None
    provider = TracerProvider(sampler, resource, shutdown_on_exit=False, id_generator=ids)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _sampler() -> Sampler | None:
    """None where the environment names another one, which the SDK knows."""
    if os.environ.get(SAMPLER, BY_RATIO).lower() != BY_RATIO:
        return None
    return ByRatio(float(os.environ.get(RATIO, "1")))


def _exporters() -> list[SpanExporter]:
    names = [name.strip() for name in os.environ.get(EXPORTERS, "otlp").split(",")]
    return [_exporter(name) for name in names if name != "none"]


def _exporter(name: str) -> SpanExporter:
    variable = EXPORTERS
    if name == "otlp":
        variable = next(filter(os.environ.get, PROTOCOLS), PROTOCOLS[-1])
        name = "otlp_proto_" + os.environ.get(variable, "grpc").partition("/")[0]
    found = [*entry_points(group="opentelemetry_traces_exporter", name=name)]
    if not found:
        raise ValueError(f"{variable} asks for the exporter {name!r}, which is not installed")
    exporter: SpanExporter = found[0].load()()
    return exporter
