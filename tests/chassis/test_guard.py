"""A server that asks who calls lets in whom contracts name, logs and counts whom it refuses, and can only observe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode
from structlog.testing import capture_logs

from handfast.chassis.v1.options_pb2 import Permission
from handfast.server.chassis import PermissionDenied, Server, ServerSettings, Service, current, refuse
from handfast.server.chassis.security.authenticator import Authenticator
from handfast.server.chassis.security.permission import Permission as Declared
from handfast.server.chassis.start_errors import DeclarationError
from handfast.users.v1 import users_pb2
from tests.fuzz.calls import Call, send
from tests.project.readme import blocks
from tests.security.issuer import Issuer, bearer

from .conftest import Failure, Running, StartServer
from .made_up import service_of_texts
from .test_interceptors import CHASSIS_GUIDE

FOUND = users_pb2.GetUserResponse(user=users_pb2.User(user_id="ada"))
KINDS = {"Unary": (False, False), "Spread": (False, True), "Gather": (True, False), "Both": (True, True)}
REFUSED = "handfast_calls_refused_total"


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def settings(issuer: Issuer, tmp_path: Path) -> dict[str, Any]:
    return issuer.settings(tmp_path)


class Suspended(PermissionDenied):
    reason = "SUSPENDED"


def found(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
    return FOUND


def counted(running: Running, reason: str, enforced: str) -> float:
    service = "handfast.users.v1.UserService"
    labels = f'enforced="{enforced}",grpc_method="GetUser",grpc_service="{service}",reason="{reason}"'
    return running.metric(f"{REFUSED}{{{labels}}}")


def test_who_is_refused_is_told_what_the_method_needs_and_is_counted(
    start: StartServer, settings: dict[str, Any], issuer: Issuer
) -> None:
    running = start(**settings)
    failure = running.failure(found)
    assert (failure.code, failure.info.reason) == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert dict(failure.info.metadata) == {"problem": "missing"}
    failure = running.failure(found, metadata=bearer(issuer.token("ada", ["users.write"])))
    assert (failure.code, failure.info.reason) == (StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    method = "handfast.users.v1.UserService/GetUser"
    assert failure.message == f"{method} needs users.read, or the scope self and an id of the caller's own."
    assert dict(failure.info.metadata) == {"method": method, "scopes": "users.read"}
    assert (counted(running, "UNAUTHENTICATED", "true"), counted(running, "SCOPE_MISSING", "true")) == (1, 1)
    assert running.get_user(found, metadata=bearer(issuer.token("ada", ["users.read"]))) == FOUND


@pytest.mark.parametrize(("mode", "told"), [("enforce", []), ("observe", []), ("off", [["--token-keys"]])])
def test_settings_of_authentication_that_is_off_are_told(
    settings: dict[str, Any], mode: str, told: list[list[str]]
) -> None:
    given = ServerSettings(name="users", listen="127.0.0.1:0", **settings | {"authentication": mode})
    server = Server(given, domain="handfast.users", services=[])
    with capture_logs() as logs:
        server.start()
    server.stop()
    assert [line["without_effect"] for line in logs if "authentication is off" in line["event"]] == told


def test_the_handler_of_a_refused_call_never_runs(start: StartServer, settings: dict[str, Any], issuer: Issuer) -> None:
    running, ran = start(**settings), []
    own = bearer(issuer.token("bob", ["self"]))
    for metadata in ((), own, bearer(issuer.token("ada"))):
        running.failure(lambda *_: ran.append(True), metadata=metadata)
    assert not ran
    assert running.get_user(found, "bob", metadata=own) == FOUND


def test_a_server_that_observes_lets_all_pass_and_says_whom_it_would_refuse(
    start: StartServer, settings: dict[str, Any], issuer: Issuer
) -> None:
    running = start(**settings | {"authentication": "observe"})
    cases = {
        "observed-nobody": ((), "UNAUTHENTICATED", None),
        "observed-scope": (bearer(issuer.token("ada")), "SCOPE_MISSING", "ada"),
        "observed-other": (bearer(issuer.token("bob", ["self"])), "SCOPE_MISSING", "bob"),
        "observed-own": (bearer(issuer.token("ada", ["self"])), None, "ada"),
    }
    for id_, (metadata, reason, subject) in cases.items():
        seen: list[Any] = []

        def look(_request: Any, _context: Any, seen: list[Any] = seen) -> users_pb2.GetUserResponse:
            seen.append(current().identity)
            return FOUND

        assert running.get_user(look, "ada", metadata=(*metadata, ("x-request-id", id_))) == FOUND
        assert [identity and identity.subject for identity in seen] == [subject]
        line = running.call_log(id_)
        assert (line.get("would_refuse"), line["grpc.code"]) == (reason, "OK")
    assert (counted(running, "UNAUTHENTICATED", "false"), counted(running, "SCOPE_MISSING", "false")) == (1, 2)


def test_a_server_that_observes_says_all_that_is_in_the_way_of_a_call(
    start: StartServer, settings: dict[str, Any], issuer: Issuer
) -> None:
    running = start(**settings | {"authentication": "observe"})

    def twice(_request: Any, _context: Any) -> users_pb2.GetUserResponse:
        for _ in range(2):
            refuse(Suspended("Your account is suspended."))
        return FOUND

    eve = (*bearer(issuer.token("eve")), ("x-request-id", "both"))
    assert running.get_user(twice, metadata=eve) == FOUND
    line = running.call_log("both")
    assert line["would_refuse"] == "SCOPE_MISSING,SUSPENDED"
    assert line["would_refuse.message"].endswith("caller's own. Your account is suspended.")
    assert (counted(running, "SCOPE_MISSING", "false"), counted(running, "SUSPENDED", "false")) == (1, 1)


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize("fails", [(Authenticator, "authenticate"), (Declared, "lacking")], ids=["who", "what"])
def test_where_the_guard_itself_fails_nobody_is_let_in_but_by_a_server_that_observes(
    start: StartServer,
    settings: dict[str, Any],
    issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
    fails: tuple[type, str],
    mode: str,
) -> None:
    running = start(**settings | {"authentication": mode})
    id_ = f"{fails[1]}-{mode}"
    metadata = (*bearer(issuer.token("ada", ["self"])), ("x-request-id", id_))
    with monkeypatch.context() as patched:
        patched.setattr(*fails, lambda *_: 1 / 0)
        if mode == "enforce":
            assert running.failure(found, metadata=metadata).code is StatusCode.INTERNAL
        else:
            assert running.get_user(found, metadata=metadata) == FOUND
            assert counted(running, "INTERNAL", "false") == 1
            assert running.call_log(id_)["would_refuse"] == "INTERNAL"
    assert "ZeroDivisionError" in running.call_log(id_)["exception"]


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_rule_of_ones_own_as_the_guide_shows_it_refuses_as_contracts_do(
    start: StartServer, settings: dict[str, Any], issuer: Issuer, mode: str
) -> None:
    (shown,) = (block.code for block in blocks("python", CHASSIS_GUIDE) if "class Suspensions(" in block.code)
    names: dict[str, Any] = {"__name__": "shown"}
    exec(compile(shown, str(CHASSIS_GUIDE), "exec", dont_inherit=True), names)
    running = start(**settings | {"authentication": mode}, interceptors=[names["Suspensions"]({"eve"})])
    eve = (*bearer(issuer.token("eve", ["users.read"])), ("x-request-id", f"suspended-{mode}"))
    assert running.get_user(found, metadata=bearer(issuer.token("ada", ["users.read"]))) == FOUND
    if mode == "enforce":
        assert running.failure(found, metadata=eve).info.reason == "SUSPENDED"
        assert counted(running, "SUSPENDED", "true") == 1
    else:
        assert running.get_user(found, metadata=eve) == FOUND
        assert running.call_log(f"suspended-{mode}")["would_refuse"] == "SUSPENDED"


@pytest.mark.parametrize(
    ("reflection", "anybody", "with_scope"),
    [
        ("open", StatusCode.OK, StatusCode.OK),
        ("off", StatusCode.UNAUTHENTICATED, StatusCode.UNIMPLEMENTED),
        ("contracts.read", StatusCode.UNAUTHENTICATED, StatusCode.OK),
    ],
)
def test_reflection_is_for_whom_the_setting_says(
    start: StartServer,
    settings: dict[str, Any],
    issuer: Issuer,
    reflection: str,
    anybody: StatusCode,
    with_scope: StatusCode,
) -> None:
    running = start(**settings, reflection=reflection)
    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        assert send(running.channel, Call(path, [b""])).code is anybody
        known = bearer(issuer.token("ada", ["contracts.read"]))
        assert send(running.channel, Call(path, [b""], known)).code is with_scope
        if reflection == "contracts.read":
            other = bearer(issuer.token("ada", ["users.read"]))
            assert send(running.channel, Call(path, [b""], other)).code is StatusCode.PERMISSION_DENIED


def test_reflection_can_be_off_where_nobody_is_asked(start: StartServer) -> None:
    running = start(reflection="off")
    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    assert send(running.channel, Call(path, [b""])).code is StatusCode.UNIMPLEMENTED
    assert running.get_user(found) == FOUND


class Echo:
    """Says first that it serves, where replies stream."""

    def Unary(self, request: StringValue, _context: Any) -> StringValue:
        return request

    def Spread(self, request: StringValue, _context: Any) -> Iterator[StringValue]:
        yield request

    def Gather(self, requests: Iterator[StringValue], _context: Any) -> StringValue:
        return StringValue(value=" ".join(request.value for request in requests))

    def Both(self, requests: Iterator[StringValue], _context: Any) -> Iterator[StringValue]:
        yield StringValue(value="serves")
        yield from requests


def served(service: Service, settings: dict[str, Any]) -> Server:
    server_settings = ServerSettings(
        name="echo", listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", grace=0.3, **settings
    )
    return Server(server_settings, domain="handfast.test", services=[service])


@pytest.fixture
def ask(settings: dict[str, Any]) -> Iterator[Callable[..., tuple[StatusCode, list[str]]]]:
    """Calls a method of Echo, whose texts have to be the caller's own without the scope `echo.say`."""
    own = Permission(scopes=["{server}.say"], self=["value"])
    server = served(service_of_texts("handfast.test.Echo", KINDS, Echo(), own), settings)
    server.start()
    with closing(grpc.insecure_channel(server.address)) as channel:

        def ask(kind: str, token: str, *texts: str) -> tuple[StatusCode, list[str]]:
            requests = [StringValue(value=text).SerializeToString() for text in texts]
            outcome = send(channel, Call(f"/handfast.test.Echo/{kind}", requests, bearer(token)))
            return outcome.code, [StringValue.FromString(reply).value for reply in outcome.replies]

        yield ask
    server.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_each_message_of_a_caller_has_to_be_its_own(
    ask: Callable[..., tuple[StatusCode, list[str]]], issuer: Issuer, kind: str
) -> None:
    own, all_ = issuer.token("ada", ["self"]), issuer.token("ada", ["echo.say"])
    assert ask(kind, all_, "bob")[0] is StatusCode.OK
    assert ask(kind, own, "ada")[0] is StatusCode.OK
    assert ask(kind, own, "bob") == (StatusCode.PERMISSION_DENIED, [])  # not even that it serves
    assert ask(kind, issuer.token("ada", ["users.say"]), "ada") == (StatusCode.PERMISSION_DENIED, [])
    if KINDS[kind][0]:
        assert ask(kind, own, "ada", "ada")[0] is StatusCode.OK
        assert ask(kind, own, "ada", "bob")[0] is StatusCode.PERMISSION_DENIED
        assert ask(kind, own) == (StatusCode.PERMISSION_DENIED, [])
        assert ask(kind, all_)[0] is StatusCode.OK


def test_nobody_may_call_a_method_whose_contract_does_not_say_who(settings: dict[str, Any], issuer: Issuer) -> None:
    server = served(service_of_texts("handfast.test.Undeclared", KINDS, Echo()), settings)
    server.start()
    try:
        with closing(grpc.insecure_channel(server.address)) as channel:
            call: Any = channel.unary_unary("/handfast.test.Undeclared/Unary")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", metadata=bearer(issuer.token("ada", ["self"])))
            failure = Failure(caught.value)
            assert (failure.code, failure.info.reason) == (StatusCode.PERMISSION_DENIED, "NO_PERMISSION_DECLARED")
    finally:
        server.stop()


def test_a_server_whose_contract_declares_what_cannot_be_does_not_start() -> None:
    wrong = Permission(scopes=["echo.say"], self=["text"])
    service = service_of_texts("handfast.test.Wrong", KINDS, Echo(), wrong)
    with pytest.raises(DeclarationError, match=r"handfast.test.Wrong.Unary: its permission self: .* no field 'text'"):
        served(service, {})
