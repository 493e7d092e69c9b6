"""What a server records of calls that end early, of attempts, of what handlers do, and of its database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id
from sqlalchemy.exc import DBAPIError, IntegrityError

from handfast.client import DeadlineExceeded, channel
from handfast.server.chassis.call import Call, current
from handfast.server.chassis.errors import InvalidMetadata, PeerUnavailable
from handfast.server.chassis.server import Server, Service
from handfast.server.chassis.tracing import spans
from handfast.server.chassis.tracing.database import TracedDatabase
from handfast.server.chassis.tracing.recorder import OpenTelemetryRecorder
from handfast.server.chassis.tracing.sampler import ByRatio
from handfast.server.process.settings import ServerSettings, sqlite_url
from handfast.server.transactions.participant.unit_of_work import Blocked
from handfast.users.v1 import users_pb2, users_pb2_grpc
from tests.chassis.conftest import USERS, Users
from tests.client.backend import Backend
from tests.client.conftest import backend
from tests.databases.postgresql import PostgreSQL
from tests.eventually import eventually

from .conftest import Recorded

__all__ = ["backend"]

CALLS = {"pool": "calls"}
ADA = users_pb2.GetUserRequest(user_id="ada")
UNRECORDED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
Stub = users_pb2_grpc.UserServiceStub


class Served:
    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.servicer = Users()  # type: ignore[abstract]  # calls of the rest are unimplemented
        add = users_pb2_grpc.add_UserServiceServicer_to_server
        settings = ServerSettings(name="users", listen="127.0.0.1:0", threads=1, grace=0.5, tracing=True)
        self.server = Server(settings, domain="users", services=[Service(USERS, add, self.servicer, "users")])
        self.server.start()

    def spans(self, count: int) -> list[ReadableSpan]:
        """Those of calls, in the order in which they began, once there are so many."""

        def found() -> list[ReadableSpan]:
            spans = [span for span in self._recorded.spans if span.kind is SpanKind.SERVER]
            return spans if len(spans) >= count else []

        return sorted(eventually(found) or [], key=lambda span: span.start_time or 0)


@pytest.fixture
def served(recorded: Recorded) -> Iterator[Served]:
    served = Served(recorded)
    yield served
    served.server.stop()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_each_attempt_that_a_client_makes_is_a_span_within_that_of_the_call(served: Served, recorded: Recorded) -> None:
    attempts = iter(range(3))

    def behave(request: Any, context: Any) -> users_pb2.GetUserResponse:
        if next(attempts) < 2:
            raise PeerUnavailable("Away for a moment.")
        return users_pb2.GetUserResponse()

    served.servicer.behavior = behave
    with channel(served.server.address, tracing=True) as opened:
        Stub(opened).GetUser(ADA)
    spans = served.spans(3)
    (call,) = (span for span in recorded.spans if span.kind is SpanKind.CLIENT)
    assert call.context is not None
    assert {span.parent.span_id if span.parent else 0 for span in spans} == {call.context.span_id}
    assert [attributes(span).get("handfast.previous_attempts", 0) for span in spans] == [0, 1, 2]
    assert [attributes(span).get("error.type") for span in spans] == ["UNAVAILABLE", "UNAVAILABLE", None]


def test_a_call_that_never_had_a_handler_is_a_span(served: Served) -> None:
    """Its deadline passes while the only thread serves another one."""
    gate = threading.Event()

    def behave(request: Any, context: Any) -> users_pb2.GetUserResponse:
        gate.wait(30)
        return users_pb2.GetUserResponse()

    served.servicer.behavior = behave
    with channel(served.server.address) as opened:
        first = Stub(opened).GetUser.future(ADA)
        assert eventually(lambda: served.server.metrics.registry.get_sample_value("handfast_calls_in_flight", CALLS))
        with pytest.raises(DeadlineExceeded):
            Stub(opened).GetUser(ADA, timeout=0.2)
        gate.set()
        first.result()
    _, second = served.spans(2)
    assert second.status.status_code is StatusCode.ERROR
    assert attributes(second)["error.type"] == "DEADLINE_EXCEEDED"


def test_a_server_on_all_addresses_names_none(served: Served) -> None:
    assert served.server._tracing is not None
    served.server._tracing.serve_at("0.0.0.0", 50051)
    served.servicer.behavior = lambda request, context: users_pb2.GetUserResponse()
    with channel(served.server.address) as opened:
        Stub(opened).GetUser(ADA)
    (span,) = served.spans(1)
    assert (attributes(span).get("server.address"), attributes(span)["server.port"]) == (None, 50051)


def test_what_a_handler_does_is_within_its_call(served: Served, recorded: Recorded) -> None:
    """Also of the next call on the same thread."""

    def behave(request: Any, context: Any) -> users_pb2.GetUserResponse:
        with recorded.tracer.start_as_current_span("work"):
            return users_pb2.GetUserResponse()

    served.servicer.behavior = behave
    with channel(served.server.address) as opened:
        for _ in range(2):
            Stub(opened).GetUser(ADA)
    calls = [span.context.span_id for span in served.spans(2) if span.context]
    assert [span.parent.span_id for span in recorded.spans if span.name == "work" and span.parent] == calls


@pytest.mark.parametrize("sampler", [ByRatio(0)])
@pytest.mark.parametrize(
    "metadata",
    [(), (("traceparent", UNRECORDED),), (("traceparent", UNRECORDED), ("tracestate", "a=b"))],
    ids=["begun here", "its caller's", "its caller's with a state"],
)
def test_of_a_call_that_is_not_recorded_nothing_is_and_its_trace_goes_on(
    served: Served, recorded: Recorded, backend: Backend, metadata: tuple[tuple[str, str], ...]
) -> None:
    calls: list[Call] = []

    def behave(request: Any, context: Any) -> users_pb2.GetUserResponse:
        calls.append(current())
        with recorded.tracer.start_as_current_span("work"):
            Stub(peer).GetUser(ADA)
        Stub(peer).GetUser(ADA)
        return users_pb2.GetUserResponse()

    served.servicer.behavior = behave
    with channel(backend.address, tracing=True) as peer, channel(served.server.address) as opened:
        Stub(opened).GetUser(ADA, metadata=metadata)
    assert not recorded.spans
    (call,) = calls
    traceparents = [str(value) for value in backend.metadata_values("traceparent")]
    assert {value[:35] for value in traceparents} == {f"00-{call.trace_id}"}
    assert {int(value[-2:], 16) & 1 for value in traceparents} == {0}
    if metadata:
        assert (call.trace_id, call.span_id != UNRECORDED[36:52]) == (UNRECORDED[3:35], True)
    assert backend.metadata_values("tracestate") == ({"a=b"} if len(metadata) == 2 else {None})


@pytest.mark.parametrize("sampler", [ByRatio(1)])
def test_a_call_to_a_peer_that_no_span_is_the_reason_for_begins_no_trace_there_or_here(
    recorded: Recorded, backend: Backend
) -> None:
    with channel(backend.address, tracing=True) as peer:
        Stub(peer).GetUser(ADA)
        assert not recorded.spans
        with recorded.tracer.start_as_current_span("notify"):
            Stub(peer).GetUser(ADA)
    assert [span.kind for span in recorded.spans] == [SpanKind.CLIENT, SpanKind.INTERNAL]
    flags = {int(str(value)[-2:], 16) & 1 for value in backend.metadata_values("traceparent")}
    assert flags == {0, 1}


@pytest.mark.parametrize("sampler", [ByRatio(0.5)])
def test_the_id_of_a_trace_that_begins_here_decides_whether_it_is_recorded(served: Served, recorded: Recorded) -> None:
    """As other servers of the trace may go by its id, too."""
    trace_ids: list[str] = []

    def behave(request: Any, context: Any) -> users_pb2.GetUserResponse:
        trace_ids.append(current().trace_id or "")
        return users_pb2.GetUserResponse()

    served.servicer.behavior = behave
    with channel(served.server.address) as opened:
        for _ in range(64):  # of which none is recorded, or all are, once in 2^63 times
            Stub(opened).GetUser(ADA)
    chosen = {trace_id for trace_id in trace_ids if int(trace_id[16:], 16) < 2**63}
    assert len(set(trace_ids)) == 64
    assert 0 < len(chosen) < 64
    assert {format_trace_id(span.context.trace_id) for span in served.spans(len(chosen)) if span.context} == chosen


def test_an_unexpected_exception_tells_nothing_of_itself(served: Served) -> None:
    def behave(request: Any, context: Any) -> users_pb2.GetUserResponse:
        raise ZeroDivisionError("ada@example.com")

    served.servicer.behavior = behave
    with grpc.insecure_channel(served.server.address) as opened, pytest.raises(grpc.RpcError):
        Stub(opened).GetUser(ADA)
    (span,) = served.spans(1)
    assert attributes(span)["error.type"] == "INTERNAL"
    assert "ada@example.com" not in span.to_json()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, recorded: Recorded) -> Iterator[TracedDatabase]:
    url = sqlite_url(tmp_path / "people.sqlite3")
    if request.param == "postgresql":
        server: PostgreSQL = request.getfixturevalue("server")
        url = server.emptied()
    database = TracedDatabase(url)
    with database.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE people (name VARCHAR(20) PRIMARY KEY)"))
    yield database
    database.close()


def insert(name: str) -> Callable[[sa.Connection], object]:
    return lambda connection: connection.execute(sa.text("INSERT INTO people VALUES (:name)"), {"name": name})


def test_reads_and_local_transactions_are_spans_within_a_call(recorded: Recorded, database: TracedDatabase) -> None:
    database.write(insert("outside"))
    with recorded.tracer.start_as_current_span("call"):
        database.write(insert("ada"))
        with database.read() as connection:
            connection.execute(sa.text("SELECT name FROM people")).all()
    write, read, call = recorded.spans
    name = attributes(write)["db.namespace"]
    assert (write.name, read.name) == (f"TRANSACTION {name}", f"SELECT {name}")
    expected = {"db.system.name": database.dialect, "db.namespace": name}
    if database.dialect == "postgresql":
        assert write.kind is SpanKind.CLIENT
        expected["server.address"] = attributes(write)["server.address"]  # the path of a socket
    else:
        assert (write.kind, name) == (SpanKind.INTERNAL, "people.sqlite3")
    assert attributes(write) == {**expected, "db.operation.name": "TRANSACTION"}
    assert attributes(read) == {**expected, "db.operation.name": "SELECT"}
    assert call.context is not None
    assert write.parent is not None
    assert write.parent.span_id == call.context.span_id


def test_a_failure_of_the_database_is_named_by_its_code(recorded: Recorded, database: TracedDatabase) -> None:
    database.write(insert("ada"))
    with recorded.tracer.start_as_current_span("call"), pytest.raises(IntegrityError):
        database.write(insert("ada"))
    write = recorded.spans[0]
    assert write.status.status_code is StatusCode.ERROR
    expected = "23505" if database.dialect == "postgresql" else "IntegrityError"
    assert attributes(write)["error.type"] == expected
    assert not write.events  # an exception's text would be there


@pytest.mark.parametrize(
    ("where", "address", "port"),
    [("127.0.0.1:1/people", "127.0.0.1", 1), ("/people?host=/nowhere", "/nowhere", None)],
    ids=["port", "socket"],
)
def test_a_database_has_a_port_unless_it_is_found_by_a_socket(
    recorded: Recorded, where: str, address: str, port: int | None
) -> None:
    database = TracedDatabase(f"postgresql+psycopg://ada@{where}")
    with recorded.tracer.start_as_current_span("call"), pytest.raises(DBAPIError), database.read():
        pass
    database.close()
    found = attributes(recorded.spans[0])
    assert (found["server.address"], found.get("server.port")) == (address, port)


@pytest.mark.parametrize(
    "refusal", [InvalidMetadata("no", key="k"), Blocked("A user", "ada")], ids=["refused", "waits"]
)
def test_that_a_work_does_not_end_is_no_failure_of_the_database(
    recorded: Recorded, database: TracedDatabase, refusal: Exception
) -> None:
    def refuse(connection: sa.Connection) -> None:
        raise refusal

    with recorded.tracer.start_as_current_span("call"), pytest.raises(type(refusal)):
        database.write(refuse)
    assert recorded.spans[0].status.status_code is StatusCode.UNSET


def test_where_the_call_is_not_recorded_there_is_no_span(recorded: Recorded, database: TracedDatabase) -> None:
    unrecorded = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False))
    with trace.use_span(unrecorded):
        database.write(insert("ada"))
    assert not recorded.spans


def test_what_is_done_for_a_phase_of_another_process_names_its_transactions(recorded: Recorded) -> None:
    recorder = OpenTelemetryRecorder()
    with recorded.tracer.start_as_current_span("call"), recorder.later("finish", spans.Phase.STAGE, ["t1", "t2"]):
        pass
    assert attributes(recorded.spans[0]) == {"handfast.transaction_ids": ("t1", "t2")}
