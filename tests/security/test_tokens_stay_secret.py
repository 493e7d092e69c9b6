"""A token is in no log, error, metric or traceback, whatever a handler does with it."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import structlog

from handfast.server.chassis import current
from handfast.server.chassis.errors import ScopeMissing
from handfast.server.chassis.logs import log as logs
from handfast.server.chassis.logs.redaction import without_tokens
from handfast.server.chassis.logs.writer import LogWriter
from handfast.server.chassis.server import Server, Service
from handfast.users.v1 import users_pb2, users_pb2_grpc
from tests.chassis.conftest import USERS, Users
from tests.eventually import eventually
from tests.security.conftest import server_settings
from tests.security.issuer import BAD, Issuer, bearer


class _Serving:
    def __init__(
        self, server: Server, channel: grpc.Channel, servicer: Users, log: io.BytesIO, writer: LogWriter
    ) -> None:
        self.server, self.servicer = server, servicer
        self._log, self._writer = log, writer
        self._stub = users_pb2_grpc.UserServiceStub(channel)

    def told(self, token: str, behavior: Callable[[Any, Any], Any]) -> str:
        """All that a caller and an operator can see of a call."""
        self.servicer.behavior = behavior
        told: str = ""
        try:
            self._stub.GetUser(users_pb2.GetUserRequest(user_id="ada"), metadata=bearer(token))
        except grpc.RpcError as error:
            trailing: Any = error.trailing_metadata()
            told = f"{error.code()} {error.details()} {trailing}"
        assert eventually(self._has_ended)
        with urllib.request.urlopen(self.server.metrics_url) as answer:
            told += str(answer.read().decode())
        log: str = self._log.getvalue().decode()
        self._log.seek(0)
        self._log.truncate()
        assert all(json.loads(line) for line in log.splitlines())
        return told + log

    def _has_ended(self) -> bool:
        self._writer.flush()
        return b'"event": "call"' in self._log.getvalue()


@pytest.fixture(scope="module")
def serving(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Serving]:
    log = io.BytesIO()
    logs.configure.cache_clear()
    writer = logs.configure("test", "debug", log)
    structlog.configure(cache_logger_on_first_use=False)  # or tests that come later could not capture what is logged
    servicer = Users()  # type: ignore[abstract]  # leaves methods out
    settings = server_settings(**issuer.settings(tmp_path_factory.mktemp("keys")), log_level="debug")
    add = users_pb2_grpc.add_UserServiceServicer_to_server
    server = Server(settings, domain="handfast.users", services=[Service(USERS, add, servicer, "handfast.users")])
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        yield _Serving(server, channel, servicer, log, writer)
    server.stop()
    logs.configure.cache_clear()
    structlog.reset_defaults()


def _logs_metadata(_: Any, context: grpc.ServicerContext) -> Any:
    structlog.get_logger().info("metadata", all=context.invocation_metadata(), text=f"{context.invocation_metadata()}")
    return users_pb2.GetUserResponse()


def _logs_the_token_alone(_: Any, context: grpc.ServicerContext) -> Any:
    token = str(current().metadata["authorization"]).partition(" ")[2]
    structlog.get_logger().info(f"token {token}", token=token, repr=repr(token))
    current().log["token"] = token
    return users_pb2.GetUserResponse()


def _raises_it(_: Any, context: grpc.ServicerContext) -> Any:
    raise RuntimeError(f"failed with {dict(current().metadata)}") from ValueError(current().metadata["authorization"])


def _refuses_with_it(_: Any, context: grpc.ServicerContext) -> Any:
    quoted = str(current().metadata["authorization"])
    raise ScopeMissing(f"not with {quoted}", scopes=quoted)


@pytest.mark.parametrize("behavior", [_logs_metadata, _logs_the_token_alone, _raises_it, _refuses_with_it])
def test_what_a_handler_does_with_a_token_shows_nothing_of_it(
    behavior: Callable[[Any, Any], Any], serving: _Serving, issuer: Issuer
) -> None:
    token = issuer.token("ada", ["users.read"])
    told = serving.told(token, behavior)
    assert "[REDACTED]" in told
    _assert_in_no_part(token, told)


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "empty"])
def test_a_refused_token_is_shown_nowhere(kind: str, serving: _Serving, issuer: Issuer) -> None:
    problem, make = BAD[kind]
    token = make(issuer)
    told = serving.told(token, lambda *_: users_pb2.GetUserResponse())
    assert f'handfast_authentications_total{{result="{problem}"}}' in told
    assert "UNAUTHENTICATED" in told
    _assert_in_no_part(token, told)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("authorization: Bearer abc.def-_~+/=", "authorization: Bearer [REDACTED]"),
        ("{'authorization': 'bearer secret', 'x': 'y'}", "{'authorization': 'bearer [REDACTED]', 'x': 'y'}"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", "[REDACTED]"),
        ("a=eyJhbGciOi.x, b=1", "a=[REDACTED], b=1"),
        ("the bearer of bad news", "the bearer [REDACTED] bad news"),
        ("keyJob", "keyJob"),
    ],
)
def test_what_looks_like_a_token_is_taken_out_of_a_text(text: str, shown: str) -> None:
    assert without_tokens(text) == shown


def _assert_in_no_part(token: str, text: str) -> None:
    for part in filter(None, token.split(".")):
        assert part not in text
        assert part[: len(part) // 2] not in text or len(part) < 20
