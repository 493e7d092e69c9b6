from __future__ import annotations

import gc
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from handfast.server.chassis import Periodic, Pool
from handfast.server.chassis import server as server_module
from handfast.server.chassis.logs.writer import LogWriter
from handfast.server.chassis.pipeline import pools
from handfast.server.chassis.server import Server, Service
from handfast.server.chassis.start_errors import StartError
from handfast.server.process.settings import ServerSettings
from handfast.users.v1 import users_pb2, users_pb2_grpc
from tests.eventually import PATIENCE, eventually

from .conftest import USERS, Failure, Running, StartServer, new_server, new_users

HealthListRequest: Any = health_pb2.HealthListRequest  # type: ignore[attr-defined]  # its types leave it out
GET_USER = "/handfast.users.v1.UserService/GetUser"
FOUND = users_pb2.GetUserResponse()


@pytest.fixture
def own(log: Any, writer: Any) -> Iterator[Running]:
    """A server that the test may stop."""
    servicer = new_users()
    server = new_server(servicer)
    server.start()
    running = Running(servicer, server, log, writer)
    yield running
    running.channel.close()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder.getsockname()[1]


@pytest.mark.parametrize("setting", ["listen", "metrics_listen"])
def test_a_host_that_does_not_resolve_is_told_in_the_words_of_the_resolver(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_arguments: object, **_more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    given: dict[str, Any] = {"listen": "127.0.0.1:0", setting: "nowhere.test:50051"}
    given |= {"allow_plaintext_beyond_loopback": True, "allow_anonymous_beyond_loopback": True}
    server = Server(ServerSettings(name="users", **given), domain="handfast.users", services=[])
    monkeypatch.setattr(*((socket, "create_server") if setting == "listen" else (server_module, "Endpoint")), unknown)
    with pytest.raises(StartError, match=r"^cannot .* on nowhere\.test:50051: Name or service not known$"):
        server.start()


@pytest.mark.parametrize("setting", ["listen", "metrics_listen"])
def test_a_port_that_is_taken_is_said_in_one_line(setting: str, taken_port: int) -> None:
    address = f"127.0.0.1:{taken_port}"
    server = (
        new_server(new_users(), listen=address)
        if setting == "listen"
        else new_server(new_users(), metrics_listen=address)
    )
    with pytest.raises(StartError, match=rf"^cannot .* on 127\.0\.0\.1:{taken_port}: Address already in use$"):
        server.start()


def test_pools_that_differ_have_different_names() -> None:
    """Threads and metrics go by the name."""
    pool = Pool("calls", 1)  # as the server calls the one that it makes
    service = Service(USERS, users_pb2_grpc.add_UserServiceServicer_to_server, new_users(), "handfast.users", pool)
    settings = ServerSettings(name="users", listen="127.0.0.1:0")
    with pytest.raises(ValueError, match=r"^services: two different pools are called 'calls'$"):
        Server(settings, domain="handfast.users", services=[service])


def test_a_pool_is_for_methods_that_exist() -> None:
    add = users_pb2_grpc.add_UserServiceServicer_to_server
    service = Service(USERS, add, new_users(), "handfast.users", pool_of={"GetUsr": Pool("lookups", 1)})
    settings = ServerSettings(name="users", listen="127.0.0.1:0")
    message = r"^services: handfast\.users\.v1\.UserService has no method GetUsr to give a pool$"
    with pytest.raises(StartError, match=message):
        Server(settings, domain="handfast.users", services=[service])


def test_two_servers_never_share_a_port(running: Running) -> None:
    with pytest.raises(StartError, match="Address already in use"):
        new_server(new_users(), listen=f"127.0.0.1:{running.server.port}").start()
    with pytest.raises(OSError, match="in use"):  # nor another process that would share it
        socket.create_server(("127.0.0.1", running.server.port), reuse_port=True)


def test_what_a_failed_start_began_is_ended(taken_port: int) -> None:
    closed = threading.Event()
    server = new_server(new_users(), listen=f"127.0.0.1:{taken_port}", on_close=[closed.set])
    with pytest.raises(StartError):
        server.start()
    assert closed.is_set()


class Work:
    """In the background."""

    def __init__(self, happened: list[str], as_it_ends: Callable[[], None] = lambda: None) -> None:
        self._happened, self._as_it_ends = happened, as_it_ends
        self.timeout = -1.0

    def start(self) -> None:
        self._happened.append("start")

    def stop(self, timeout: float) -> None:
        self._happened.append("stop")
        self.timeout = timeout
        self._as_it_ends()


LEFT_BEHIND = "some handlers did not end within the grace period"


def events(log: io.BytesIO, writer: LogWriter) -> list[str]:
    writer.flush()
    return [json.loads(line)["event"] for line in log.getvalue().splitlines()]


def test_calls_in_flight_finish_when_the_server_stops(own: Running, log: io.BytesIO, writer: LogWriter) -> None:
    entered, before = threading.Event(), len(events(log, writer))

    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        entered.set()
        time.sleep(0.1)
        return FOUND

    own.servicer.behavior = behavior
    pending = own.stub.GetUser.future(users_pb2.GetUserRequest())
    assert entered.wait(5)
    own.server.stop()
    assert pending.result() == FOUND
    assert LEFT_BEHIND not in events(log, writer)[before:]


def test_a_handler_that_will_not_end_does_not_hold_the_server(
    own: Running, gate: threading.Event, log: io.BytesIO, writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handfast.server.chassis.server._INTERRUPT_SECONDS", 0.1)
    entered, before = threading.Event(), len(events(log, writer))

    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        entered.set()
        gate.wait(90)
        return FOUND

    own.servicer.behavior = behavior
    pending = own.stub.GetUser.future(users_pb2.GetUserRequest(), metadata=(("x-request-id", "stuck"),))
    assert entered.wait(5)
    started = time.monotonic()
    own.server.stop()
    assert time.monotonic() - started < PATIENCE
    assert pending.exception() is not None
    assert events(log, writer)[before:].count(LEFT_BEHIND) == 1
    gate.set()
    assert own.call_log("stuck")["grpc.code"] == "Unavailable"


def test_as_many_calls_are_at_work_as_there_are_threads(start: StartServer, gate: threading.Event) -> None:
    before = set(threading.enumerate())
    running = start(threads=2, queue=10)
    at_work: list[None] = []

    def work(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        at_work.append(None)
        gate.wait(PATIENCE)
        return FOUND

    running.servicer.behavior = work
    calls = [running.channel.unary_unary(GET_USER).future(b"") for _ in range(5)]
    assert eventually(lambda: running.metric('handfast_calls_in_flight{pool="calls"}') == 5)
    assert running.metric('handfast_calls_limit{pool="calls"}') == 12
    started = {thread.name for thread in set(threading.enumerate()) - before}
    assert {name for name in started if name.startswith("calls-")} == {"calls-0", "calls-1"}
    assert eventually(lambda: len(at_work) == 2)
    gate.set()
    for call in calls:
        call.result(PATIENCE)
    assert len(at_work) == 5
    assert eventually(lambda: running.metric('handfast_calls_in_flight{pool="calls"}') == 0)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_server_listens_on_ipv6(start: StartServer) -> None:
    running = start(listen="[::1]:0", metrics_listen="[::1]:0")
    assert running.server.address == f"[::1]:{running.server.port}"
    with grpc.insecure_channel(running.server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert running.metric("handfast_ready") == 1
    with pytest.raises(StartError, match=re.escape(running.server.address)):
        start(listen=running.server.address)


def test_no_thread_of_a_server_holds_its_process(start: StartServer) -> None:
    before = set(threading.enumerate())
    LogWriter(io.BytesIO())
    running = start(checks=[lambda: None], background=[Periodic("cleaner", lambda: None, every=60)])
    running.get_user(lambda _request, _context: users_pb2.GetUserResponse())
    started = set(threading.enumerate()) - before
    assert {"canceller", "readiness", "cleaner", "log", "calls-0"} <= {thread.name for thread in started}
    assert [thread.name for thread in started if not thread.daemon] == []


def test_background_work_runs_while_the_server_does_and_ends_before_what_it_uses_is_closed() -> None:
    happened: list[str] = []
    server = new_server(new_users(), background=[Work(happened)], on_close=[lambda: happened.append("close")])
    server.start()
    server.stop()
    assert happened == ["start", "stop", "close"]


def test_what_does_not_close_as_it_should_is_logged_and_keeps_nothing_else_from_it(
    log: io.BytesIO, writer: LogWriter
) -> None:
    happened: list[str] = []

    def fail() -> None:
        raise OSError("it sticks")

    before = len(events(log, writer))
    background = [Work(happened, fail), Work(happened)]
    server = new_server(new_users(), background=background, on_close=[fail, lambda: happened.append("close")])
    server.start()
    server.stop()
    assert happened == ["start", "start", "stop", "stop", "close"]
    assert events(log, writer)[before:].count("something did not close as it should") == 2
    assert eventually(lambda: not server.canceller.is_alive())


def test_where_one_does_not_start_what_started_before_it_is_ended_at_once() -> None:
    happened: list[str] = []

    class Broken(Work):
        def start(self) -> None:
            raise OSError("no room for a thread")

    first = Work(happened)
    background = [first, Broken(happened), Work(happened)]
    server = new_server(new_users(), background=background, on_close=[lambda: happened.append("close")])
    with pytest.raises(OSError, match="no room"):
        server.start()
    assert happened == ["start", "stop", "close"]
    assert first.timeout == 0


def test_background_work_is_told_how_long_it_has() -> None:
    told: list[str] = []
    slow, next_one = Work(told, lambda: time.sleep(0.05)), Work(told)
    server = new_server(new_users(), background=[slow, next_one])
    server.start()
    server.stop()
    assert 0 < slow.timeout <= 1  # what is left of the grace, a second at least
    assert 0 <= next_one.timeout <= max(0.0, slow.timeout - 0.05)


@pytest.fixture
def collector() -> Iterator[None]:
    """That of this process, which a server that runs changes."""
    thresholds = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_a_server_runs_until_it_is_told_to_stop(
    collector: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setattr("handfast.server.chassis.logs.log.configure", lambda *_: LogWriter(io.BytesIO()))
        stop = threading.Event()
        server = new_server(new_users())
        thread = threading.Thread(target=server.run, args=(stop,))
        thread.start()
        assert told.recv(100) == b"READY=1"
        assert gc.get_freeze_count() > 10_000  # all that was imported
        assert gc.get_threshold()[0] > 10_000  # or it would look at all calls that wait, again and again
        with grpc.insecure_channel(server.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        stop.set()
        assert told.recv(100) == b"STOPPING=1"
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("service", ["", "handfast.users.v1.UserService"])
def test_health_tells_watchers_that_the_server_stops_and_lets_them_go(own: Running, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    watch = own.health.Watch(request, metadata=(("x-request-id", f"watch-{service}"),))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    own.server.stop()
    assert [reply.status for reply in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
    assert own.call_log(f"watch-{service}")["grpc.code"] == "OK"


def test_who_watches_health_is_served_until_it_has_heard_that_the_server_stops(
    start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = start(grace=PATIENCE)
    monkeypatch.setattr(pools, "PATIENCE", PATIENCE)
    with monkeypatch.context() as patch:
        patch.setattr(pools, "QUIET", PATIENCE)
        watch = own.health.Watch(health_pb2.HealthCheckRequest())
        next(watch)
        stopping = threading.Thread(target=own.server.stop)
        stopping.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        own.get_user(lambda request, context: users_pb2.GetUserResponse())
    stopping.join(PATIENCE)
    assert not stopping.is_alive()


def test_a_watch_does_not_end_before_the_calls_in_flight_do(start: StartServer, gate: threading.Event) -> None:
    """Or clients of gRPC would begin another one at once, and so on."""
    own = start(grace=PATIENCE)
    entered = threading.Event()

    def behavior(_request: object, _context: object) -> users_pb2.GetUserResponse:
        entered.set()
        gate.wait(PATIENCE)
        return users_pb2.GetUserResponse()

    own.servicer.behavior = behavior
    held = own.stub.GetUser.future(users_pb2.GetUserRequest())
    assert entered.wait(PATIENCE)
    watches = [own.health.Watch(health_pb2.HealthCheckRequest())]
    next(watches[0])
    stopping = threading.Thread(target=own.server.stop)
    stopping.start()
    assert next(watches[0]).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watches.append(own.health.Watch(health_pb2.HealthCheckRequest()))
    assert next(watches[1]).status == health_pb2.HealthCheckResponse.NOT_SERVING
    for _ in range(10):  # what it sends comes in order
        own.health.Check(health_pb2.HealthCheckRequest())
    assert [each.is_active() for each in watches] == [True, True]
    gate.set()
    held.result()
    assert [list(each) for each in watches] == [[], []]
    stopping.join(PATIENCE)


def test_the_health_of_what_the_server_does_not_have_is_not_found(running: Running) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        running.health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
    failure = Failure(caught.value)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_SERVICE")
    assert dict(failure.info.metadata) == {"service": "no.such.Service"}
    assert failure.named_request_id == failure.request_id


def test_who_watches_what_the_server_does_not_have_waits_until_it_stops(own: Running) -> None:
    watch = own.health.Watch(health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    own.server.stop()
    assert list(watch) == []
    assert watch.code() is grpc.StatusCode.OK


def test_a_watcher_that_leaves_is_recorded_as_gone(running: Running) -> None:
    watch = running.health.Watch(health_pb2.HealthCheckRequest(), metadata=(("x-request-id", "watcher"),))
    next(watch)
    watch.cancel()
    assert running.call_log("watcher")["grpc.code"] == "Canceled"


def test_health_lists_what_it_knows(running: Running) -> None:
    names = ["", "readiness", "liveness", "handfast.users.v1.UserService"]
    listed = running.health.List(HealthListRequest()).statuses
    assert {name: answer.status for name, answer in listed.items()} == dict.fromkeys(
        names, health_pb2.HealthCheckResponse.SERVING
    )


def test_health_answers_though_all_threads_are_busy(running: Running, gate: threading.Event) -> None:
    busy = threading.Semaphore(0)

    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        busy.release()
        gate.wait(5)
        return FOUND

    running.servicer.behavior = behavior
    held = [running.stub.GetUser.future(users_pb2.GetUserRequest()) for _ in range(running.server.settings.threads)]
    for _ in held:
        assert busy.acquire(timeout=5)
    assert (
        running.health.Check(health_pb2.HealthCheckRequest(), timeout=2).status
        == health_pb2.HealthCheckResponse.SERVING
    )
    gate.set()
    assert eventually(lambda: all(pending.done() for pending in held))


def reflect(running: Running, version: str, **question: Any) -> reflection_pb2.ServerReflectionResponse:
    method = running.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answer: reflection_pb2.ServerReflectionResponse
    (answer,) = method(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=5)
    return answer


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_every_service(running: Running, version: str) -> None:
    answer = reflect(running, version, list_services="*")
    assert {service.name for service in answer.list_services_response.service} == {
        "handfast.users.v1.UserService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("handfast.users.v1.UserService", "handfast/users/v1/users.proto"),
        ("handfast.users.v1.UserService.GetUser", "handfast/users/v1/users.proto"),
        ("handfast.users.v1.User.email", "handfast/users/v1/users.proto"),
        ("handfast.chassis.v1.stageable", "handfast/chassis/v1/options.proto"),
        ("google.rpc.ErrorInfo", "google/rpc/error_details.proto"),
        ("google.rpc.BadRequest", "google/rpc/error_details.proto"),
        ("grpc.health.v1.Health", None),
        ("grpc.reflection.v1.ServerReflection", None),
        ("grpc.reflection.v1alpha.ServerReflection", None),
    ],
)
def test_reflection_resolves_what_tools_ask_for(running: Running, symbol: str, file: str | None) -> None:
    answer = reflect(running, "v1", file_containing_symbol=symbol)
    names = [
        descriptor_pb2.FileDescriptorProto.FromString(serialized).name
        for serialized in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert names
    assert file is None or file in names


def test_reflection_says_that_it_knows_no_such_name(running: Running) -> None:
    answer = reflect(running, "v1", file_containing_symbol="handfast.users.v1.UserService.Nothing")
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_a_call_to_a_server_that_has_stopped_is_unavailable(own: Running) -> None:
    own.server.stop()
    with pytest.raises(grpc.RpcError) as caught:
        own.get_user(lambda _request, _context: FOUND, timeout=2)
    assert Failure(caught.value).code is grpc.StatusCode.UNAVAILABLE
