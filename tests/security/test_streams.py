"""Methods that stream, under what is asked of callers: who they are, what they may send, how often, and the audit."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc_interceptor
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode

from handfast.chassis.v1.options_pb2 import Permission
from handfast.server.chassis import PermissionDenied, Server, ServerSettings, refuse
from tests.chassis.made_up import service_of_texts
from tests.eventually import PATIENCE, eventually
from tests.security.conftest import Lines
from tests.security.issuer import Issuer, bearer

NAME = "handfast.test.Notes"
METHODS = {"Write": (False, False), "WriteAll": (True, False), "Exchange": (True, True)}
PERMISSION = Permission(scopes=["notes.write"], self=["value"], resource=["value"])


class Notes:
    """Keeps the ids that it was sent."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def Write(self, request: StringValue, _context: Any) -> StringValue:
        self.written.append(request.value)
        return request

    def WriteAll(self, requests: Iterator[StringValue], context: Any) -> StringValue:
        for request in requests:
            self.Write(request, context)
        return StringValue()

    def Exchange(self, requests: Iterator[StringValue], context: Any) -> Iterator[StringValue]:
        for request in requests:
            yield self.Write(request, context)


class Sealed(PermissionDenied):
    reason = "SEALED"


class Seal(grpc_interceptor.ServerInterceptor):
    """A rule about each request, as docs/chassis.md has it: nobody writes to what is sealed."""

    def intercept(self, method: Any, request_or_iterator: Any, context: Any, method_name: str) -> Any:
        one = isinstance(request_or_iterator, StringValue)
        requests = self._check(request_or_iterator) if one else map(self._check, request_or_iterator)
        return method(requests, context)

    def _check(self, request: StringValue) -> StringValue:
        if request.value == "sealed":
            refuse(Sealed("It is sealed."))
        return request


class Caller:
    """Calls the methods with a token."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def call(self, method: str, token: str, request_id: str, ids: Iterable[str]) -> StatusCode:
        """The code that a call with these requests ends with."""
        call = self.begin(method, token, request_id, iter(ids))
        with contextlib.suppress(grpc.RpcError):
            list(call)
        code: StatusCode = call.code()
        return code

    def begin(self, method: str, token: str, request_id: str, ids: Iterator[str]) -> Any:
        streaming: Any = self._channel.stream_stream(
            f"/{NAME}/{method}", StringValue.SerializeToString, StringValue.FromString
        )
        requests = (StringValue(value=id_) for id_ in ids)
        return streaming(requests, metadata=(*bearer(token), ("x-request-id", request_id)), timeout=PATIENCE)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def caller(notes: Notes, issuer: Issuer, lines: Lines, tmp_path: Path) -> Iterator[Caller]:
    """Of a server that lets each caller make one call a second."""
    revoked = tmp_path / "revoked"
    revoked.touch()
    settings = ServerSettings(
        name="notes",
        listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        grace=0.3,
        calls_per_second_per_caller=1,
        calls_burst_per_caller=1,
        revoked_tokens=str(revoked),
        **issuer.settings(tmp_path),
    )
    service = service_of_texts(NAME, METHODS, notes, PERMISSION)
    server = Server(settings, domain="handfast.test", services=[service], interceptors=[Seal()])
    server.start()
    with contextlib.closing(grpc.insecure_channel(server.address)) as channel:
        yield Caller(channel)
    server.stop()


def test_a_stream_is_one_call_and_its_audit_names_what_all_its_requests_were_about(
    caller: Caller, notes: Notes, issuer: Issuer, lines: Lines
) -> None:
    token = issuer.token("ada", ["notes.write"])
    code = caller.call("WriteAll", token, "all", ["n-1", "n-2", "n-1", "", "n-3"])
    assert code is StatusCode.OK
    assert len(notes.written) == 5
    line = lines.of("all")
    assert (line["grpc.code"], line["resource"]) == ("OK", "n-1,n-2,n-3")


def test_no_more_ids_of_a_stream_are_kept_than_the_audit_names(caller: Caller, issuer: Issuer, lines: Lines) -> None:
    ids = [f"note-{number:04}" for number in range(1000)]
    code = caller.call("WriteAll", issuer.token("ada", ["notes.write"]), "many", ids)
    assert code is StatusCode.OK
    assert lines.of("many")["resource"] == ",".join(ids)[:500]


def test_a_handler_gets_no_request_that_its_caller_may_not_send_and_none_after_it(
    caller: Caller, notes: Notes, issuer: Issuer, lines: Lines
) -> None:
    code = caller.call("WriteAll", issuer.token("ada", ["self"]), "own", ["ada", "ada", "bob", "ada"])
    assert code is StatusCode.PERMISSION_DENIED
    assert notes.written == ["ada", "ada"]  # which stand
    line = lines.of("own")
    assert (line["grpc.code"], line["resource"]) == ("PermissionDenied", "ada,bob")


def test_a_rule_of_ones_own_looks_at_each_request(caller: Caller, notes: Notes, issuer: Issuer) -> None:
    code = caller.call("WriteAll", issuer.token("ada", ["notes.write"]), "rule", ["n-1", "sealed", "n-2"])
    assert code is StatusCode.PERMISSION_DENIED
    assert notes.written == ["n-1"]


def test_a_stream_goes_on_though_its_token_is_not_taken_any_more(
    caller: Caller, issuer: Issuer, tmp_path: Path
) -> None:
    token, ids = issuer.token("ada", ["notes.write"], jti="stolen"), queue.Queue[str | None]()
    stream = caller.begin("Exchange", token, "begun", iter(ids.get, None))
    ids.put("n-1")
    assert next(stream).value == "n-1"
    (tmp_path / "revoked").write_text("stolen\n")
    assert eventually(lambda: caller.call("Write", token, "another", ["n-2"]) is StatusCode.UNAUTHENTICATED)
    ids.put("n-3")
    assert next(stream).value == "n-3"
    ids.put(None)
    assert list(stream) == []
