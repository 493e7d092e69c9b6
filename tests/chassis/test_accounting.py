"""Every way in which a call can end, for each kind of streaming: counted once, with the code that its caller saw.

What grpcio makes impossible has a test of its own.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.logs.writer import GO_NAMES, LogWriter
from handfast.server.chassis.pipeline.layer import DEFAULT_MESSAGE_LIMIT, METADATA_LIMIT
from handfast.server.chassis.server import Server
from handfast.server.process.settings import ServerSettings, sqlite_url
from tests import http2
from tests.eventually import eventually
from tests.project.readme import OBSERVABILITY, quoted, table

from .conftest import Failure, Running, new_users
from .scripted import LARGE, METHODS, NAME, Scripted, labels_of, scripted_service

THREADS, QUEUE = 2, 1
UNKNOWN = {"grpc_type": "unknown", "grpc_service": "unknown", "grpc_method": "unknown"}
SOON, NEVER = 0.3, 20.0
"""Deadlines in seconds."""


class Bench(Running):
    """A server with few threads, its servicer, and the records that it keeps."""

    def __init__(self, server: Server, scripted: Scripted, log: io.BytesIO, writer: LogWriter) -> None:
        super().__init__(new_users(), server, log, writer)
        self.scripted = scripted

    def start_call(
        self,
        kind: str,
        text: bytes | str,
        *,
        method: str = "",
        timeout: float = NEVER,
        id_: str,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Started:
        name, requests, replies = METHODS[kind]
        sent = text if isinstance(text, bytes) else StringValue(value=text).SerializeToString()
        multi = getattr(self.channel, f"{'stream' if requests else 'unary'}_{'stream' if replies else 'unary'}")
        invoke = multi(f"/{NAME}/{method or name}")
        invoke = invoke if replies else invoke.future
        call = invoke(iter([sent]) if requests else sent, timeout=timeout, metadata=(("x-request-id", id_), *metadata))
        return Started(call, replies)

    def records(self, labels: dict[str, str]) -> dict[str, float]:
        """What the metrics say of a method: started, ended by code, observed."""

        found = {
            (sample.name, sample.labels.get("grpc_code")): sample.value
            for metric in self.server.metrics.registry.collect()
            for sample in metric.samples
            if labels.items() <= sample.labels.items()
        }
        return {
            "started": found.get(("grpc_server_started_total", None), 0.0),
            "observed": found.get(("grpc_server_handling_seconds_count", None), 0.0),
            **{code.name: found.get(("grpc_server_handled_total", name), 0.0) for code, name in GO_NAMES.items()},
        }

    def in_flight(self) -> float:
        found = self.server.metrics.registry.get_sample_value("handfast_calls_in_flight", {"pool": "calls"})
        assert found is not None
        return found


@dataclass
class Started:
    """A call under way."""

    call: Any
    streams: bool

    def result(self) -> Any:
        return list(self.call) if self.streams else self.call.result()

    def outcome(self) -> StatusCode:
        """Waits for the end, and tells the code that the caller sees."""
        try:
            self.result()
        except grpc.FutureCancelledError:
            return StatusCode.CANCELLED
        except grpc.RpcError as error:
            return error.code()
        return StatusCode.OK


@contextmanager
def new_bench(
    folder: Path,
    log: io.BytesIO,
    writer: LogWriter,
    grace: float = 0.2,
    interceptors: Sequence[grpc.ServerInterceptor] = (),
) -> Iterator[Bench]:
    with closing(Database(sqlite_url(folder / "test.sqlite3"))) as database:
        database.check()  # makes the file
        scripted = Scripted(database)
        settings = ServerSettings(name="test", listen="127.0.0.1:0", threads=THREADS, queue=QUEUE, grace=grace)
        services = [scripted_service(scripted)]
        server = Server(settings, domain="handfast.test", services=services, interceptors=interceptors)
        server.start()
        bench = Bench(server, scripted, log, writer)
        yield bench
        scripted.gate.set()
        bench.channel.close()
        server.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, log: io.BytesIO, writer: LogWriter) -> Iterator[Bench]:
    with new_bench(tmp_path_factory.mktemp("shared"), log, writer) as bench:
        yield bench


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    shared.scripted.gate.clear()
    shared.scripted.entered = threading.Semaphore(0)  # not all cases take what they release
    yield shared
    shared.scripted.gate.set()
    assert eventually(lambda: shared.in_flight() == 0)


@pytest.fixture
def own_bench(tmp_path: Path, log: io.BytesIO, writer: LogWriter) -> Iterator[Bench]:
    """For those who stop it."""
    with new_bench(tmp_path, log, writer) as bench:
        yield bench


@pytest.fixture
def patient_bench(tmp_path: Path, log: io.BytesIO, writer: LogWriter) -> Iterator[Bench]:
    """One that gives calls their time when it stops."""
    with new_bench(tmp_path, log, writer, grace=20) as bench:
        yield bench


Ends = Callable[[Bench, str, str], StatusCode]
"""Makes one call of a kind, under a request id, and tells the code that its caller saw."""


def says(text: bytes | str, **options: Any) -> Ends:
    return lambda bench, kind, id_: bench.start_call(kind, text, id_=id_, **options).outcome()


def cancelled(text: str) -> Ends:
    def end(bench: Bench, kind: str, id_: str) -> StatusCode:
        call = bench.start_call(kind, text, id_=id_)
        assert bench.scripted.entered.acquire(timeout=5)
        call.call.cancel()
        return call.outcome()

    return end


def baggage(size: int) -> tuple[tuple[str, str], ...]:
    return (("baggage", "x" * size),)


def with_all_threads_busy(bench: Bench, kind: str, id_: str, others_wait: int, timeout: float) -> StatusCode:
    busy = [bench.start_call("unary", "block", id_=f"{id_}-busy") for _ in range(THREADS)]
    for _ in busy:
        assert bench.scripted.entered.acquire(timeout=5)
    busy += [bench.start_call("unary", "block", id_=f"{id_}-waiting") for _ in range(others_wait)]
    assert eventually(lambda: bench.in_flight() == len(busy))
    # Should a thread be free before the server knows that the call is late, the handler does not end before it does.
    code = bench.start_call(kind, "wait", id_=id_, timeout=timeout).outcome()
    bench.scripted.gate.set()
    assert {call.outcome() for call in busy} == {StatusCode.OK}
    return code


def overload(bench: Bench, kind: str, id_: str) -> StatusCode:
    return with_all_threads_busy(bench, kind, id_, others_wait=QUEUE, timeout=NEVER)


def late_in_the_queue(bench: Bench, kind: str, id_: str) -> StatusCode:
    return with_all_threads_busy(bench, kind, id_, others_wait=0, timeout=SOON)


def stopped(text: str) -> Ends:
    def end(bench: Bench, kind: str, id_: str) -> StatusCode:
        call = bench.start_call(kind, text, id_=id_)
        assert bench.scripted.entered.acquire(timeout=5)
        bench.server.stop()
        code = call.outcome()
        bench.scripted.gate.set()
        return code

    return end


CASES: dict[str, tuple[StatusCode, Ends]] = {
    "success": (StatusCode.OK, says("ok")),
    "a domain error": (StatusCode.INVALID_ARGUMENT, says("refuse")),
    "an unexpected exception": (StatusCode.INTERNAL, says("crash")),
    "an unknown method": (StatusCode.UNIMPLEMENTED, says("ok", method="Nothing")),
    "an unparsable request": (StatusCode.INVALID_ARGUMENT, says(b"\xff\xff")),
    "an unserializable reply": (StatusCode.INTERNAL, says("unserializable")),
    "a request that is too large": (StatusCode.INVALID_ARGUMENT, says("x" * LARGE)),
    "metadata that is too large": (StatusCode.INVALID_ARGUMENT, says("ok", metadata=baggage(METADATA_LIMIT))),
    "a reply that is too large": (StatusCode.RESOURCE_EXHAUSTED, says("large")),
    "overload": (StatusCode.RESOURCE_EXHAUSTED, overload),
    "a deadline that passes in the queue": (StatusCode.DEADLINE_EXCEEDED, late_in_the_queue),
    "a deadline that passes in the handler": (StatusCode.DEADLINE_EXCEEDED, says("wait", timeout=SOON)),
    "a deadline that passes in a query": (StatusCode.DEADLINE_EXCEEDED, says("query", timeout=SOON)),
    "a deadline that passes in a write": (StatusCode.DEADLINE_EXCEEDED, says("write", timeout=SOON)),
    "a caller that cancels": (StatusCode.CANCELLED, cancelled("wait")),
    "a caller that cancels during a query": (StatusCode.CANCELLED, cancelled("query")),
}
STOPS: dict[str, tuple[StatusCode, Ends]] = {
    "a stop of the server": (StatusCode.UNAVAILABLE, stopped("wait")),
    "a stop of the server during a query": (StatusCode.UNAVAILABLE, stopped("query")),
    "a stop of the server that the handler ignores": (StatusCode.UNAVAILABLE, stopped("block")),
}
IN_THE_WAY = {
    "overload": THREADS + QUEUE,
    "a deadline that passes in the queue": THREADS,
    "a call during a stop": 1,
}
"""How many other calls, all of them unary, a case needs."""


def test_the_table_in_the_docs_has_every_case() -> None:
    documented = {name: quoted(code)[0] for name, code in table(OBSERVABILITY, "a call that ends by", "code")}
    cases = {name: GO_NAMES[code] for name, (code, _) in {**CASES, **STOPS}.items()}
    elsewhere = {"a call during a stop": "Unavailable", "a caller that keeps the server waiting": "DeadlineExceeded"}
    assert documented == {**cases, **elsewhere}


def increase(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def check_records(bench: Bench, case: str, kind: str, expected: StatusCode, end: Ends, prefix: str = "") -> None:
    """The request id of the call is made of `prefix`, case and kind; no other call of these tests may have it."""
    labels = UNKNOWN if case == "an unknown method" else labels_of(kind)
    id_ = f"{prefix}{case} {kind}".replace(" ", "-")
    before = bench.records(labels)
    assert end(bench, kind, id_) is expected
    line = bench.call_log(id_)
    assert line["grpc.code"] == GO_NAMES[expected]
    assert eventually(lambda: bench.in_flight() == 0)
    assert eventually(lambda: len(bench.server.canceller.running) == 0)
    others = IN_THE_WAY.get(case, 0) if kind == "unary" else 0
    counted = {"started": 1 + others, "observed": 1 + others, expected.name: 1, **({"OK": others} if others else {})}
    eventually(lambda: increase(before, bench.records(labels)) == counted)  # the others may not be counted yet
    assert increase(before, bench.records(labels)) == counted


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_every_call_is_recorded_once_with_the_code_that_its_caller_saw(
    tolerant: None, bench: Bench, case: str, kind: str
) -> None:
    check_records(bench, case, kind, *CASES[case])


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("case", STOPS)
def test_a_call_that_a_stop_cuts_is_recorded_in_the_same_way(
    own_bench: Bench, monkeypatch: pytest.MonkeyPatch, case: str, kind: str
) -> None:
    if case == "a stop of the server that the handler ignores":  # else it may need the time
        monkeypatch.setattr("handfast.server.chassis.server._INTERRUPT_SECONDS", 0.1)
    check_records(own_bench, case, kind, *STOPS[case])


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize(
    ("what", "ends"),
    [
        ("request", says("x" * (2 * DEFAULT_MESSAGE_LIMIT + 1))),
        ("metadata", says("ok", metadata=baggage(4 * METADATA_LIMIT))),
    ],
)
def test_what_grpcio_refuses_by_itself_is_recorded_once_with_another_code(
    bench: Bench, what: str, ends: Ends, kind: str
) -> None:
    """Out of reach: beyond twice the limit on messages, and four times that on metadata, grpcio tells the caller
    RESOURCE_EXHAUSTED, and the server only that the call is over or that no request came."""
    before = bench.records(labels_of(kind))
    assert ends(bench, kind, f"huge-{what}-{kind}") is StatusCode.RESOURCE_EXHAUSTED
    code = {name: code for code, name in GO_NAMES.items()}[bench.call_log(f"huge-{what}-{kind}")["grpc.code"]]
    assert code in (StatusCode.CANCELLED, StatusCode.UNIMPLEMENTED)
    assert increase(before, bench.records(labels_of(kind))) == {"started": 1, "observed": 1, code.name: 1}


def test_a_call_that_is_malformed_for_grpcio_is_recorded_once_as_cancelled(bench: Bench) -> None:
    headers = [(b"grpc-timeout", b"soon"), (b"x-request-id", b"malformed")]
    http2.send(bench.server.address, f"/{NAME}/Unary".encode(), b"", headers)
    assert bench.call_log("malformed")["grpc.code"] == "Canceled"


def test_a_unary_call_is_recorded_though_its_caller_does_not_take_the_reply(bench: Bench) -> None:
    headers = [(b"x-request-id", b"not-taken")]
    with http2.unread(bench.server.address, f"/{NAME}/Unary".encode(), b"", headers):
        assert bench.call_log("not-taken")["grpc.code"] == "OK"


def test_metadata_is_taken_up_to_its_limit_each_time_and_refused_beyond_it(bench: Bench) -> None:
    def call(size: int) -> Started:
        return bench.start_call("unary", "ok", id_="large-metadata", metadata=baggage(size))

    with pytest.raises(grpc.RpcError) as caught:
        call(METADATA_LIMIT).result()
    failure = Failure(caught.value)
    assert failure.info.reason == "REQUEST_TOO_LARGE"
    assert failure.info.metadata["limit"] == str(METADATA_LIMIT)
    room = METADATA_LIMIT - (int(failure.info.metadata["size"]) - METADATA_LIMIT)  # beside the other entries
    assert {call(room).outcome() for _ in range(20)} == {StatusCode.OK}
    assert call(room + 1).outcome() is StatusCode.INVALID_ARGUMENT


def test_what_is_refused_for_overload_says_when_to_come_again(bench: Bench) -> None:
    busy = [bench.start_call("unary", "block", id_="busy") for _ in range(THREADS + QUEUE)]
    assert eventually(lambda: bench.in_flight() == THREADS + QUEUE)
    with pytest.raises(grpc.RpcError) as caught:
        bench.start_call("unary", "ok", id_="refused").result()
    failure = Failure(caught.value)
    assert (failure.info.reason, failure.info.domain) == ("OVERLOADED", "handfast.test")
    assert failure.info.metadata == {"limit": str(THREADS + QUEUE)}
    assert failure.named_request_id == failure.request_id == "refused"
    assert bench.health.Check(HealthCheckRequest()).status == HealthCheckResponse.SERVING
    bench.scripted.gate.set()
    assert {call.outcome() for call in busy} == {StatusCode.OK}


@pytest.mark.parametrize("text", ["wait", "query", "write"])
def test_a_caller_that_leaves_frees_the_thread(bench: Bench, text: str) -> None:
    for _ in range(2):
        for _ in range(THREADS):
            assert cancelled(text)(bench, "unary", f"left-{text}") is StatusCode.CANCELLED
        assert eventually(lambda: bench.in_flight() == 0)
    assert bench.start_call("unary", "ok", id_="next").outcome() is StatusCode.OK


def during_a_stop(bench: Bench, kind: str, id_: str) -> StatusCode:
    before = bench.start_call("unary", "block", id_=f"{id_}-before")
    assert bench.scripted.entered.acquire(timeout=5)
    stopping = threading.Thread(target=bench.server.stop)
    stopping.start()
    assert eventually(lambda: bench.server._limiter.draining)
    assert bench.health.Check(HealthCheckRequest()).status == HealthCheckResponse.NOT_SERVING
    code = bench.start_call(kind, "ok", id_=id_).outcome()
    bench.scripted.gate.set()
    assert before.outcome() is StatusCode.OK
    stopping.join(20)
    return code


@pytest.mark.parametrize("kind", METHODS)
def test_a_call_that_comes_during_a_stop_is_told_to_come_again(patient_bench: Bench, kind: str) -> None:
    check_records(patient_bench, "a call during a stop", kind, StatusCode.UNAVAILABLE, during_a_stop)
    assert patient_bench.call_log(f"a-call-during-a-stop-{kind}")["error.reason"] == "SHUTTING_DOWN"


def test_a_stop_tells_those_that_wait_to_come_again(own_bench: Bench) -> None:
    call = own_bench.start_call("unary", "wait", id_="waits")
    assert own_bench.scripted.entered.acquire(timeout=5)
    own_bench.server.stop()
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    assert Failure(caught.value).info.reason == "SHUTTING_DOWN"


def test_replies_count_as_sent_though_their_caller_leaves_as_soon_as_it_has_them(bench: Bench) -> None:
    bench.scripted.entered = threading.Semaphore(0)
    labels = labels_of("server_stream")

    def sent() -> float:
        return bench.server.metrics.registry.get_sample_value("grpc_server_msg_sent_total", labels) or 0.0

    before, calls = sent(), 50
    for number in range(calls):
        call = bench.start_call("server_stream", "wait", id_=f"leaves-{number}").call
        next(call)
        call.cancel()
    assert eventually(lambda: bench.in_flight() == 0)
    assert sent() == before + calls
