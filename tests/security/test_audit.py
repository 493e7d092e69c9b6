"""One line of the log says of each write and each refusal who it was, what it was about, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from handfast.client.propagation import CALLER_KEY
from handfast.server.chassis.call import Call, Method, Pool
from handfast.server.chassis.errors import NotAuthenticated
from handfast.server.chassis.logs.writer import PLACES, CallLog, LogWriter
from handfast.server.chassis.security.audit import AuditLog
from handfast.server.chassis.security.identity import Identity
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from handfast.server.users.server import build
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.chassis.test_logs import StuckPipe
from tests.eventually import PATIENCE
from tests.security.conftest import Lines
from tests.security.issuer import Issuer, bearer


@pytest.fixture(params=["enforce", "observe"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def users(issuer: Issuer, mode: str, lines: Lines, tmp_path: Path) -> Iterator[UserServiceStub]:
    settings = issuer.settings(tmp_path) | {"authentication": mode, "log_level": "info"}
    server = build(
        SuiteSettings(
            name="users",
            listen="127.0.0.1:0",
            database_url=sqlite_url(tmp_path / "users.sqlite3"),
            migrate=True,
            **settings,
        )
    )
    server.start()
    with closing(grpc.insecure_channel(server.address)) as channel:
        yield UserServiceStub(channel)
    server.stop()


def test_each_write_and_each_refusal_has_a_line_that_says_who_and_what(
    users: UserServiceStub, issuer: Issuer, lines: Lines, mode: str
) -> None:
    def metadata(request_id: str, *scopes: str) -> tuple[tuple[str, str | bytes], ...]:
        return (("x-request-id", request_id), *bearer(issuer.token("ada", scopes)))

    ada = Identity.of_token(issuer.url, "ada", []).digest
    write = ("users.read", "users.write")

    # A write, whose id only the reply has.
    user = users.CreateUser(
        CreateUserRequest(user=User(email="ada@example.com")), metadata=metadata("create", *write)
    ).user
    created = {"grpc.method": "CreateUser", "grpc.code": "OK", "identity": ada, "resource": user.user_id}
    assert lines.of("create") == created

    # One that fails.
    with pytest.raises(grpc.RpcError):
        users.UpdateUser(
            UpdateUserRequest(user=User(user_id="nobody", locale="en")), metadata=metadata("update", *write)
        )
    assert lines.of("update") == {
        "grpc.method": "UpdateUser",
        "grpc.code": "NotFound",
        "identity": ada,
        "resource": "nobody",
        "error.reason": "USER_NOT_FOUND",
    }

    # One of a service that calls on behalf of somebody.
    bob = Identity.of_token(issuer.url, "bob", []).digest
    forwarded = (*metadata("forwarded", "callers.forward", *write), (CALLER_KEY, bob))
    users.UpdateUser(UpdateUserRequest(user=User(user_id=user.user_id, locale="en")), metadata=forwarded)
    updated = {"grpc.method": "UpdateUser", "grpc.code": "OK", "identity": ada, "resource": user.user_id}
    assert lines.of("forwarded") == {**updated, "on_behalf_of": bob}

    # A read has none, but where it is refused.
    users.GetUser(GetUserRequest(user_id=user.user_id), metadata=metadata("get", *write))
    for request_id, sent, reason, code, who in (
        ("scope", metadata("scope", "preferences.read"), "SCOPE_MISSING", "PermissionDenied", {"identity": ada}),
        ("token", (("x-request-id", "token"),), "UNAUTHENTICATED", "Unauthenticated", {}),
    ):
        get = GetUserRequest(user_id=user.user_id)
        if mode == "enforce":
            with pytest.raises(grpc.RpcError):
                users.GetUser(get, metadata=sent)
            # The request is not read, so nothing is known of what it was about.
            assert lines.of(request_id) == {"grpc.method": "GetUser", "grpc.code": code, "error.reason": reason, **who}
        else:
            users.GetUser(get, metadata=sent)
            passed = {"grpc.method": "GetUser", "grpc.code": "OK", "resource": user.user_id, "would_refuse": reason}
            assert lines.of(request_id) == {**passed, **who}
    assert lines.none_of("get")
    assert b"ada@example.com" not in b"".join(lines.all)


def test_refusals_that_fill_the_log_keep_no_write_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = StuckPipe()
    writer = LogWriter(pipe)
    monkeypatch.setattr(CallLog, "writer", writer)
    audit = AuditLog("users")
    create = Method("/users/Create", "users", "Create", "unary", "users", Pool("calls", 1), writes=True)

    def ended(request_id: str, code: grpc.StatusCode, refused: Exception | None = None) -> None:
        call = Call(create, create.path, (("x-request-id", request_id),))
        call.code, call.refused = code, refused
        audit.ended(call)

    writer.write(b"first")
    assert pipe.entered.wait(PATIENCE)
    missing = NotAuthenticated("There is no token.", problem="missing")
    for _ in range(PLACES):
        ended("refused", grpc.StatusCode.UNAUTHENTICATED, missing)
    ended("created", grpc.StatusCode.OK)
    ended("perhaps-created", grpc.StatusCode.CANCELLED)
    ended("left-as-it-was-refused", grpc.StatusCode.CANCELLED, missing)
    pipe.go_on.set()
    writer.flush(PATIENCE)
    told = pipe.getvalue()
    assert told.count(b'"refused"') == PLACES
    assert told.count(b'"created"') == told.count(b'"perhaps-created"') == 1
    assert b"left-as-it-was-refused" not in told
