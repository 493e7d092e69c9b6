"""Draws docs/trace.svg: an atomic update as servers have exported it, and what finishes it.

    make trace

Of many updates it takes the one that was over first, so that there is little between its decision and its end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from google.protobuf.struct_pb2 import Value
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from handfast.accounts.v1.accounts_pb2 import CreateAccountRequest, UpdateUserAndPreferencesRequest
from handfast.client import connect
from handfast.preferences.v1.preferences_pb2 import Preferences
from handfast.users.v1.users_pb2 import User
from tests.cli.processes import suite_up
from tests.people import new_email
from tests.project.commands import ROOT

from .receiver import Span, receiving

PICTURE = ROOT / "docs" / "trace.svg"
UPDATES = 20
CALLER = "caller"
COLORS = {CALLER: "#8a8f98", "accounts": "#3b7dd8", "users": "#2a9d6f", "preferences": "#c9822b"}

ROW, LEFT, WIDTH, TOP = 22, 300, 980, 62  # pixels
LABEL = 52
"""Pixels that a duration takes beside its bar."""


@dataclass(frozen=True)
class Drawn:
    """A span in its row, so far beneath the first of its trace."""

    span: Span
    depth: int
    row: int


def rows(spans: list[Span]) -> Iterator[tuple[Span, int]]:
    """Each beneath its parent, in the order in which they began, with its depth."""
    ids = {span.span_id for span in spans}

    def beneath(parent_id: str, depth: int) -> Iterator[tuple[Span, int]]:
        for span in spans:
            if span.parent_id == parent_id:
                yield span, depth
                yield from beneath(span.span_id, depth + 1)

    for root in (span for span in spans if span.parent_id not in ids):
        yield root, 0
        yield from beneath(root.span_id, 1)


def svg(update: list[Span], ends: list[list[Span]]) -> str:
    drawn = [
        Drawn(span, depth, row)
        for row, (span, depth) in enumerate(pair for spans in (update, *ends) for pair in rows(spans))
    ]
    first = min(each.span.start_ns for each in drawn)
    last = max(each.span.end_ns for each in drawn)
    per_ns = (WIDTH - LEFT - 70) / (last - first)
    height = TOP + ROW * len(drawn) + 12

    def x(ns: int) -> float:
        return LEFT + (ns - first) * per_ns

    def y(row: int) -> int:
        return TOP + ROW * row

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12" role="img" aria-label="An atomic update as a trace">',
        "<style>text{fill:#24292f}line,path{stroke:#8a8f98;fill:none}.back{fill:#fff}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.back{fill:#0d1117}}</style>",
        f'<rect class="back" width="{WIDTH}" height="{height}"/>',
    ]
    for place, (service, color) in enumerate(COLORS.items()):
        parts.append(f'<rect x="{LEFT + 110 * place}" y="10" width="12" height="12" rx="2" fill="{color}"/>')
        parts.append(f'<text x="{LEFT + 110 * place + 18}" y="20">{service}</text>')
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (last - first) / 1e6 / step <= 12)
    for ms in range(0, int((last - first) / 1e6) + 1, step):
        tick = x(first + ms * 1_000_000)
        parts.append(f'<line x1="{tick:.1f}" x2="{tick:.1f}" y1="{TOP - 8}" y2="{height - 8}" stroke-opacity=".3"/>')
        parts.append(f'<text x="{tick:.1f}" y="{TOP - 14}" text-anchor="middle">{ms} ms</text>')
    by_id = {each.span.span_id: each for each in drawn}
    for each in drawn:
        for link in each.span.links:
            if (other := by_id.get(link)) is not None:
                from_x, from_y = x(other.span.end_ns) + LABEL, y(other.row) + ROW / 2
                parts.append(
                    f'<path d="M{from_x:.1f} {from_y}h10V{y(each.row) + ROW / 2}H{x(each.span.start_ns):.1f}" '
                    'stroke-dasharray="4 3"/>'
                )
    for each in drawn:
        span, top = each.span, y(each.row)
        name = span.name.rpartition("/")[2]
        if "/" in span.name:
            name += " (calls)" if span.kind == "CLIENT" else " (serves)"
        name = name.removesuffix(".sqlite3")
        width = max(2.0, (span.end_ns - span.start_ns) * per_ns)
        bar = f'x="{x(span.start_ns):.1f}" y="{top + 4}" width="{width:.1f}" height="14"'
        parts.append(f'<text x="{10 + 14 * each.depth}" y="{top + 15}">{escape(name)}</text>')
        parts.append(f'<rect {bar} rx="2" fill="{COLORS[span.service]}"/>')
        took = f"{(span.end_ns - span.start_ns) / 1e6:.2f} ms"
        parts.append(f'<text x="{x(span.start_ns) + width + 5:.1f}" y="{top + 15}" font-size="10">{took}</text>')
    return "\n".join([*parts, "</svg>", ""])


def traces(spans: list[Span], trace_id: str) -> tuple[list[Span], list[list[Span]]]:
    """An update, and what finishes it at each participant; of each the spans in the order in which they began."""

    def of(trace_id: str) -> list[Span]:
        return sorted((span for span in spans if span.trace_id == trace_id), key=lambda span: span.start_ns)

    update = of(trace_id)
    ids = {span.span_id for span in update}
    ends = [span.trace_id for span in spans if span.name == "notify" and ids.intersection(span.links)]
    return update, [of(end) for end in ends]


def took_ns(update: list[Span], ends: list[list[Span]]) -> int:
    return max(span.end_ns for end in ends for span in end) - update[0].start_ns


def main() -> None:
    trace_ids = []
    with receiving() as receiver, tempfile.TemporaryDirectory() as folder:
        to_receiver = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver.address}"}
        provider = TracerProvider(resource=Resource.create({"service.name": CALLER}))
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(to_receiver["OTEL_EXPORTER_OTLP_ENDPOINT"])))
        trace.set_tracer_provider(provider)
        with (
            suite_up(Path(folder), to_receiver | {"OTEL_BSP_SCHEDULE_DELAY": "50"}, "--tracing") as process,
            connect(*process.addresses.values(), tracing=True) as suite,
        ):
            users = [User(email=new_email()) for _ in range(UPDATES)]
            created = [suite.accounts.CreateAccount(CreateAccountRequest(user=user)).account.user for user in users]
            for user in created:
                request = UpdateUserAndPreferencesRequest(
                    user=User(user_id=user.user_id, display_name="Ada"),
                    preferences=Preferences(user_id=user.user_id, values={"theme": Value(string_value="dark")}),
                )
                suite.accounts.UpdateUserAndPreferences(request)
                trace_id = [span for span in receiver.spans if span.service == CALLER][-1].trace_id
                trace_ids.append(trace_id)
                receiver.linked_to(receiver.of_trace(trace_id, 2), "notify", 2)  # so that each is finished by itself
        found = [traces(receiver.spans, trace_id) for trace_id in trace_ids]  # all is exported now
    PICTURE.write_text(svg(*min(found, key=lambda each: took_ns(*each))))


if __name__ == "__main__":
    main()
