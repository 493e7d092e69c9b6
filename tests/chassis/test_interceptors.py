"""A team's own interceptors: whatever they do, each call is counted once, with the code that its caller saw."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc_interceptor
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from handfast.server.chassis import Unauthenticated, current
from handfast.server.chassis.logs.writer import LogWriter
from handfast.users.v1 import users_pb2
from tests.eventually import PATIENCE, eventually
from tests.project.commands import ROOT
from tests.project.readme import blocks

from .conftest import Failure, Running, StartServer, new_server, new_users
from .scripted import METHODS
from .test_accounting import CASES, Bench, check_records, new_bench, says

CHASSIS_GUIDE = ROOT / "docs" / "chassis.md"
ACT = "x-act"
"""Metadata that says what the interceptors do."""
OWN = StringValue(value="own")
FOUND = users_pb2.GetUserResponse(user=users_pb2.User(user_id="ada"))


class WhoIsIt(Unauthenticated):
    reason = "WHO_IS_IT"


def act_of(metadata: Any) -> str:
    return str(dict(metadata).get(ACT, ""))


def streams_replies(path: str) -> bool:
    return path.endswith(("/Spread", "/Both"))


class Around(grpc_interceptor.ServerInterceptor):
    """Acts in the thread that serves the call."""

    def intercept(self, method: Any, request_or_iterator: Any, context: grpc.ServicerContext, method_name: str) -> Any:
        match act_of(context.invocation_metadata()):
            case "refuse":
                raise WhoIsIt("Nobody knows who you are.")
            case "crash":
                raise ZeroDivisionError("private")
            case "exit":
                raise SystemExit
            case "abort":
                context.abort(StatusCode.PERMISSION_DENIED, "no")
            case "answer":
                return iter([OWN]) if streams_replies(method_name) else OWN
            case "nonsense":
                return iter([object()]) if streams_replies(method_name) else object()
            case "swallow":
                return self.swallow(method, request_or_iterator, context, method_name)
        return method(request_or_iterator, context)

    def swallow(self, method: Any, request: Any, context: grpc.ServicerContext, method_name: str) -> Any:
        def replies() -> Iterator[Any]:
            try:
                yield from method(request, context)
            except Exception:
                yield OWN

        if streams_replies(method_name):
            return replies()
        try:
            return method(request, context)
        except Exception:
            return OWN


class Before(grpc.ServerInterceptor):
    """Acts where calls arrive, and chooses who serves each."""

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        match act_of(handler_call_details.invocation_metadata):
            case "refuse":
                raise WhoIsIt("Nobody knows who you are.")
            case "crash":
                raise ZeroDivisionError("private")
            case "exit":
                raise SystemExit
            case "abort":
                return grpc.unary_unary_rpc_method_handler(
                    lambda _request, context: context.abort(StatusCode.PERMISSION_DENIED, "no")
                )
            case "answer":
                return grpc.unary_unary_rpc_method_handler(
                    lambda _request, _context: OWN, response_serializer=StringValue.SerializeToString
                )
            case "nonsense":
                return grpc.unary_stream_rpc_method_handler(lambda _request, _context: ["no bytes"])
            case "misfit":
                return object()
            case "nobody":
                return None
        return continuation(handler_call_details)


def bench_with(interceptor: grpc.ServerInterceptor) -> Callable[..., Iterator[Bench]]:
    def fixture(tmp_path_factory: pytest.TempPathFactory, log: io.BytesIO, writer: LogWriter) -> Iterator[Bench]:
        with new_bench(tmp_path_factory.mktemp("own"), log, writer, interceptors=[interceptor]) as bench:
            yield bench

    return fixture


around = pytest.fixture(scope="module", name="around")(bench_with(Around()))
before = pytest.fixture(scope="module", name="before")(bench_with(Before()))


def acts(act: str, text: str = "ok") -> Any:
    return says(text, metadata=((ACT, act),))


BOTH = {
    "refuse": StatusCode.UNAUTHENTICATED,
    "crash": StatusCode.INTERNAL,
    "exit": StatusCode.INTERNAL,
    "abort": StatusCode.PERMISSION_DENIED,
    "answer": StatusCode.OK,
    "nonsense": StatusCode.INTERNAL,
}


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize(("act", "code"), [*BOTH.items(), ("swallow", StatusCode.OK)])
def test_a_call_is_counted_as_an_interceptor_around_its_handler_ends_it(
    around: Bench, act: str, code: StatusCode, kind: str
) -> None:
    check_records(around, f"around {act}", kind, code, acts(act, "crash" if act == "swallow" else "ok"))


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize(
    ("act", "code"), [*BOTH.items(), ("nobody", StatusCode.UNIMPLEMENTED), ("misfit", StatusCode.INTERNAL)]
)
def test_a_call_is_counted_as_an_interceptor_before_its_handler_ends_it(
    before: Bench, act: str, code: StatusCode, kind: str
) -> None:
    check_records(before, f"before {act}", kind, code, acts(act))


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("case", [case for case in CASES if "deadline" not in case])
@pytest.mark.parametrize("which", ["around", "before"])
def test_calls_that_an_interceptor_lets_pass_end_as_without_it(
    request: pytest.FixtureRequest, which: str, case: str, kind: str
) -> None:
    bench: Bench = request.getfixturevalue(which)
    bench.scripted.gate.clear()
    bench.scripted.entered = threading.Semaphore(0)
    code, ends = CASES[case]
    check_records(bench, case, kind, code, ends, prefix=f"{which} ")
    bench.scripted.gate.set()


@pytest.mark.parametrize("which", ["around", "before"])
def test_what_an_interceptor_raises_is_told_like_what_a_handler_raises(
    request: pytest.FixtureRequest, which: str
) -> None:
    bench: Bench = request.getfixturevalue(which)
    with pytest.raises(grpc.RpcError) as caught:
        bench.start_call("unary", "ok", id_=f"{which}-told", metadata=((ACT, "refuse"),)).result()
    failure = Failure(caught.value)
    assert (failure.info.reason, failure.info.domain) == ("WHO_IS_IT", "handfast.test")
    assert failure.request_id == failure.named_request_id == f"{which}-told"
    with pytest.raises(grpc.RpcError) as caught:
        bench.start_call("unary", "ok", id_=f"{which}-crashed", metadata=((ACT, "crash"),)).result()
    assert Failure(caught.value).info.reason == "INTERNAL"
    assert "private" not in Failure(caught.value).everything
    assert "ZeroDivisionError" in bench.call_log(f"{which}-crashed")["exception"]


def test_an_interceptor_sees_messages_the_domain_error_of_a_handler_and_the_order_in_which_they_were_given(
    start: StartServer,
) -> None:
    seen: list[Any] = []

    class Looks(grpc_interceptor.ServerInterceptor):
        def __init__(self, name: str) -> None:
            self._name = name

        def intercept(self, method: Any, request: Any, context: grpc.ServicerContext, method_name: str) -> Any:
            seen.append((self._name, type(request), method_name, current().request_id))
            try:
                reply = method(request, context)
            except Exception as error:
                seen.append((self._name, type(error)))
                raise
            seen.append((self._name, type(reply)))
            return reply

    running = start(interceptors=[Looks("outer"), Looks("inner")])
    running.get_user(lambda _request, _context: FOUND, metadata=(("x-request-id", "looked-at"),))
    path = "/handfast.users.v1.UserService/GetUser"
    begun = [(name, users_pb2.GetUserRequest, path, "looked-at") for name in ("outer", "inner")]
    assert seen == [*begun, ("inner", users_pb2.GetUserResponse), ("outer", users_pb2.GetUserResponse)]
    seen.clear()

    def refuse(_request: Any, _context: Any) -> Any:
        raise WhoIsIt("Nobody knows who you are.")

    assert running.failure(refuse).code is StatusCode.UNAUTHENTICATED
    assert seen[2:] == [("inner", WhoIsIt), ("outer", WhoIsIt)]


def test_an_abort_that_an_interceptor_swallows_is_recorded_as_its_caller_sees_it(start: StartServer) -> None:
    class Swallows(grpc_interceptor.ServerInterceptor):
        def intercept(self, method: Any, request: Any, context: grpc.ServicerContext, method_name: str) -> Any:
            try:
                return method(request, context)
            except Exception:
                return FOUND

    running = start(interceptors=[Swallows()])

    def abort(_request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(StatusCode.ABORTED, "no")

    failure = running.failure(abort, metadata=(("x-request-id", "swallowed"),))
    assert running.call_log("swallowed")["grpc.code"] == "Aborted"
    assert failure.code is StatusCode.ABORTED


def test_what_an_interceptor_leaves_is_there_for_the_handler(start: StartServer) -> None:
    class Leaves(grpc_interceptor.ServerInterceptor):
        def intercept(self, method: Any, request: Any, context: grpc.ServicerContext, method_name: str) -> Any:
            current().state["caller"] = "ada"
            return method(request, context)

    running = start(interceptors=[Leaves()])
    found: list[object] = []

    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        found.append(current().state["caller"])
        return FOUND

    running.get_user(behavior)
    assert found == ["ada"]


def test_what_is_refused_for_overload_costs_no_interceptor_anything(around: Bench) -> None:
    """It is refused before: the case of overload above passes though the interceptor would have ended it otherwise."""
    seen: list[str] = []
    original = Around.intercept

    def counting(self: Around, method: Any, request: Any, context: Any, name: str) -> Any:
        seen.append(name)
        return original(self, method, request, context, name)

    around.scripted.gate.clear()
    around.scripted.entered = threading.Semaphore(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Around, "intercept", counting)
        code, ends = CASES["overload"]
        assert ends(around, "unary", "around-overloaded") is code
    assert len(seen) == 3  # those that were taken


@pytest.mark.parametrize("given", [Around, grpc_interceptor.AsyncServerInterceptor, 5], ids=str)
def test_what_is_no_interceptor_is_refused_before_any_call(given: Any) -> None:
    with pytest.raises(TypeError, match=r"interceptors: .* is no grpc\.ServerInterceptor"):
        new_server(new_users(), interceptors=[given])


def first_of_a_watch(running: Running, request_id: str) -> Any:
    watch = running.health.Watch(HealthCheckRequest(), timeout=PATIENCE, metadata=(("x-request-id", request_id),))
    first = next(watch).status
    watch.cancel()
    return first


def test_a_watch_is_told_though_an_interceptor_runs_its_handler_only_when_replies_are_asked_for(
    start: StartServer,
) -> None:
    """As that of OpenTelemetry does, whose wrapper of methods that stream replies is a generator."""

    class Lazy(grpc_interceptor.ServerInterceptor):
        def intercept(self, method: Any, request: Any, context: grpc.ServicerContext, method_name: str) -> Any:
            return self.replies(method, request, context) if "Watch" in method_name else method(request, context)

        def replies(self, method: Any, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            yield from method(request, context)

    running = start(interceptors=[Lazy()])
    assert first_of_a_watch(running, "lazy-watch") == HealthCheckResponse.SERVING
    assert running.call_log("lazy-watch")["grpc.code"] == "Canceled"


def test_an_interceptor_may_answer_a_watch_by_itself(start: StartServer) -> None:
    answers = [HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)] * 3

    class Answers(grpc_interceptor.ServerInterceptor):
        def intercept(self, method: Any, request: Any, context: grpc.ServicerContext, method_name: str) -> Any:
            return iter(answers)

    running = start(interceptors=[Answers()])
    watch = running.health.Watch(HealthCheckRequest(), timeout=PATIENCE, metadata=(("x-request-id", "own-watch"),))
    assert list(watch) == answers
    assert dict(watch.trailing_metadata())["x-request-id"] == "own-watch"
    assert running.call_log("own-watch")["grpc.code"] == "OK"
    labels = 'grpc_method="Watch",grpc_service="grpc.health.v1.Health",grpc_type="server_stream"'
    assert running.metric(f"grpc_server_msg_sent_total{{{labels}}}") == len(answers)


@pytest.mark.parametrize("streams", [False, True], ids=["one reply", "replies that stream"])
def test_an_interceptor_may_refuse_a_watch_by_a_handler_of_another_kind(start: StartServer, streams: bool) -> None:
    """As the example of authentication in gRPC's own repository does with every call."""

    def refuse(_request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(StatusCode.UNAUTHENTICATED, "no")

    id_ = f"refused-watch-{streams}"
    factory = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler

    class Refuses(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
            return factory(refuse)

    running = start(interceptors=[Refuses()])
    watch = running.health.Watch(HealthCheckRequest(), timeout=PATIENCE, metadata=(("x-request-id", id_),))
    with pytest.raises(grpc.RpcError) as caught:
        next(watch)
    failure = Failure(caught.value)
    assert (failure.code, failure.message) == (StatusCode.UNAUTHENTICATED, "no")
    assert failure.request_id == id_
    assert running.call_log(id_)["grpc.code"] == "Unauthenticated"
    assert eventually(lambda: running.metric('handfast_calls_in_flight{pool="health"}') == 0)


def test_the_guide_shows_an_interceptor_that_asks_for_a_key(start: StartServer) -> None:
    (shown,) = (block.code for block in blocks("python", CHASSIS_GUIDE) if "class Keys(" in block.code)
    names: dict[str, Any] = {"__name__": "shown"}
    exec(compile(shown, str(CHASSIS_GUIDE), "exec", dont_inherit=True), names)
    running = start(interceptors=[names["Keys"]({"k-1": "ada"})])
    seen: list[object] = []

    def behavior(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        seen.append(current().state["holder"])
        return FOUND

    assert running.get_user(behavior, metadata=(("x-api-key", "k-1"),)) == FOUND
    assert seen == ["ada"]
    failure = running.failure(behavior, metadata=(("x-api-key", "k-2"),))
    assert (failure.code, failure.info.reason) == (StatusCode.UNAUTHENTICATED, "UNKNOWN_KEY")
    assert running.health.Check(HealthCheckRequest()).status == HealthCheckResponse.SERVING
