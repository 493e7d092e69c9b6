"""A receiver of OTLP over gRPC, in the tests' own process: the spans that it got."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.eventually import eventually


@dataclass(frozen=True)
class Span:
    """`service` is who made it. Ids are texts of hexadecimal digits; that of a parent is empty where there is none."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Any]
    links: tuple[str, ...]
    """The ids of the spans that it is linked to."""


class Receiver(pb_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self._text: list[str] = []
        self.address = ""

    @property
    def spans(self) -> list[Span]:
        with self._lock:
            return list(self._spans)

    @property
    def text(self) -> str:
        """All that came, with what no `Span` has."""
        with self._lock:
            return "".join(self._text)

    def of_trace(self, trace_id: str, count: int, name: str = "") -> list[Span]:
        """The spans of a trace, or those of a name, in the order in which they began, once there are so many."""

        def found() -> list[Span]:
            spans = [span for span in self.spans if span.trace_id == trace_id and name in ("", span.name)]
            return spans if len(spans) >= count else []

        return sorted(eventually(found) or [], key=lambda span: span.start_ns)

    def linked_to(self, spans: list[Span], name: str, count: int) -> list[Span]:
        """So many spans of that name that are linked to some of these, by the server that made them."""
        ids = {span.span_id for span in spans}

        def found() -> list[Span]:
            linked = [span for span in self.spans if span.name == name and ids.intersection(span.links)]
            return linked if len(linked) >= count else []

        return sorted(eventually(found) or [], key=lambda span: span.service)

    def Export(
        self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> pb.ExportTraceServiceResponse:
        with self._lock:
            self._text.append(str(request))
            for resource in request.resource_spans:
                service = _values(resource.resource.attributes)["service.name"]
                self._spans += [_span(service, span) for scope in resource.scope_spans for span in scope.spans]
        return pb.ExportTraceServiceResponse()


def _span(service: str, span: trace_pb2.Span) -> Span:
    return Span(
        service,
        span.name,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        _values(span.attributes),
        tuple(link.span_id.hex() for link in span.links),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    pb_grpc.add_TraceServiceServicer_to_server(receiver, server)
    receiver.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(0).wait()
