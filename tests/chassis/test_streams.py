"""Calls that stream, on a contract made here, as those of the suite are all unary."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from handfast.server.chassis import errors
from handfast.server.chassis.logs.writer import LogWriter
from handfast.server.chassis.server import Server
from handfast.server.process.settings import ServerSettings

from .conftest import Failure, Running, new_users
from .made_up import service_of_texts

NAME = "handfast.test.Streams"
METHODS = {"Echo": (False, False), "Spell": (False, True), "Join": (True, False), "Double": (True, True)}
LEFT_OUT = {f"No{name}": arity for name, arity in METHODS.items()}  # in the contract, not implemented
UNKNOWN = {f"Fly{name}": arity for name, arity in METHODS.items()}
TYPES = {"Echo": "unary", "Spell": "server_stream", "Join": "client_stream", "Double": "bidi_stream"}


class Streams:
    """Answers with the text it gets; `!` and `GeneratorExit` make it fail, and `?` answer with what is no reply."""

    def Echo(self, request: StringValue, _context: grpc.ServicerContext) -> Any:
        return checked(request)

    def Spell(self, request: StringValue, _context: grpc.ServicerContext) -> Iterator[StringValue]:
        checked(request)
        for letter in request.value:
            yield checked(StringValue(value=letter))

    def Join(self, requests: Iterator[StringValue], _context: grpc.ServicerContext) -> Any:
        return reply("".join(request.value for request in requests if checked(request)))

    def Double(self, requests: Iterator[StringValue], _context: grpc.ServicerContext) -> Iterator[StringValue]:
        for request in requests:
            checked(request)
            yield reply(request.value * 2)


def checked(request: StringValue) -> Any:
    if request.value == "GeneratorExit":
        raise GeneratorExit
    if request.value == "!":
        raise errors.InvalidMetadata("no", key="k")
    return reply(request.value)


def reply(text: str) -> Any:
    return StringValue(value=text) if "?" not in text else object()


def kind_of(name: str) -> str:
    requests, replies = (METHODS | LEFT_OUT | UNKNOWN)[name]
    return f"{'stream' if requests else 'unary'}_{'stream' if replies else 'unary'}"


@pytest.fixture(scope="module")
def streams(log: io.BytesIO, writer: LogWriter) -> Iterator[Running]:
    settings = ServerSettings(name="test", listen="127.0.0.1:0", grace=0.3)
    server = Server(settings, domain="handfast.test", services=[service_of_texts(NAME, METHODS | LEFT_OUT, Streams())])
    server.start()
    running = Running(new_users(), server, log, writer)
    yield running
    running.channel.close()
    server.stop()


def call(streams: Running, name: str, texts: list[bytes | str], request_id: str) -> list[str]:
    """Sends texts (bytes as they are) by any arity, and returns what comes back."""
    sent = [text if isinstance(text, bytes) else StringValue(value=text).SerializeToString() for text in texts]
    requests, replies = (METHODS | LEFT_OUT | UNKNOWN)[name]
    multi_callable = getattr(streams.channel, kind_of(name))(f"/{NAME}/{name}")
    answer = multi_callable(iter(sent) if requests else sent[0], timeout=5, metadata=(("x-request-id", request_id),))
    return [StringValue.FromString(reply).value for reply in (answer if replies else [answer])]


@pytest.mark.parametrize(
    ("name", "texts", "answers"),
    [
        ("Echo", ["ab"], ["ab"]),
        ("Spell", ["abc"], ["a", "b", "c"]),
        ("Join", ["a", "b"], ["ab"]),
        ("Double", ["a", "b"], ["aa", "bb"]),
    ],
)
def test_every_arity_works_and_counts_its_messages(
    streams: Running, name: str, texts: list[bytes | str], answers: list[str]
) -> None:
    labels = f'{{grpc_method="{name}",grpc_service="{NAME}",grpc_type="{TYPES[name]}"}}'
    received = streams.metric("grpc_server_msg_received_total" + labels)
    sent = streams.metric("grpc_server_msg_sent_total" + labels)
    assert call(streams, name, texts, f"{name}-works") == answers
    assert streams.call_log(f"{name}-works")["grpc.code"] == "OK"
    assert streams.metric("grpc_server_msg_received_total" + labels) == received + len(texts)
    assert streams.metric("grpc_server_msg_sent_total" + labels) == sent + len(answers)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("text", "reason"),
    [("!", "INVALID_METADATA"), (b"\xff\xff", "UNPARSABLE_REQUEST"), (b"x" * 4_194_305, "REQUEST_TOO_LARGE")],
    ids=["the handler refuses", "bad bytes", "too large"],
)
def test_every_arity_fails_with_details(streams: Running, name: str, text: bytes | str, reason: str) -> None:
    labels = f'grpc_method="{name}",grpc_service="{NAME}",grpc_type="{TYPES[name]}"'
    sample = f'grpc_server_handled_total{{grpc_code="InvalidArgument",{labels}}}'
    before = streams.metric(sample)
    request_id = f"{name}-{reason}"
    with pytest.raises(grpc.RpcError) as caught:
        call(streams, name, [text], request_id)
    failure = Failure(caught.value)
    assert (failure.info.reason, failure.info.domain) == (reason, "handfast.test")
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.named_request_id == failure.request_id == request_id
    assert streams.call_log(request_id)["grpc.code"] == "InvalidArgument"
    assert streams.metric(sample) == before + 1


@pytest.mark.parametrize("name", METHODS)
def test_a_reply_of_any_arity_that_cannot_be_serialized_is_an_internal_error(streams: Running, name: str) -> None:
    labels = f'grpc_method="{name}",grpc_service="{NAME}",grpc_type="{TYPES[name]}"'
    sample = f'grpc_server_handled_total{{grpc_code="Internal",{labels}}}'
    before = streams.metric(sample)
    request_id = f"{name}-unserializable"
    with pytest.raises(grpc.RpcError) as caught:
        call(streams, name, ["?"], request_id)
    failure = Failure(caught.value)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert failure.named_request_id == failure.request_id == request_id
    line = streams.call_log(request_id)
    assert (line["grpc.code"], line["level"]) == ("Internal", "error")
    assert "SerializeToString" in line["exception"]
    assert streams.metric(sample) == before + 1


@pytest.mark.parametrize("name", [*LEFT_OUT, *UNKNOWN])
def test_a_method_that_is_not_served_is_refused_however_it_is_called(streams: Running, name: str) -> None:
    request_id = f"{name}-is-not-served"
    with pytest.raises(grpc.RpcError) as caught:
        call(streams, name, ["a"], request_id)
    failure = Failure(caught.value)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD")
    assert dict(failure.info.metadata) == {"method": f"{NAME}/{name}"}
    assert failure.named_request_id == failure.request_id == request_id
    line = streams.call_log(request_id)
    assert (line["grpc.code"], line["grpc.method"], line["error.reason"]) == ("Unimplemented", name, "UNKNOWN_METHOD")
    kind = TYPES.get(name.removeprefix("No"), "unknown")
    service, method = (NAME, name) if name in LEFT_OUT else ("unknown", "unknown")
    labels = f'grpc_method="{method}",grpc_service="{service}",grpc_type="{kind}"'
    assert streams.metric(f'grpc_server_handled_total{{grpc_code="Unimplemented",{labels}}}') >= 1


@pytest.mark.parametrize("name", ["Spell", "Double"])
def test_a_stream_is_named_to_its_caller_when_it_ends(streams: Running, name: str) -> None:
    sent = StringValue(value="a").SerializeToString()
    multi_callable = getattr(streams.channel, kind_of(name))(f"/{NAME}/{name}")
    requests = iter([sent]) if METHODS[name][0] else sent
    replies = multi_callable(requests, timeout=5, metadata=(("x-request-id", f"{name}-named"),))
    assert len(list(replies)) == 1
    assert tuple(replies.trailing_metadata()) == (("x-request-id", f"{name}-named"),)
    assert not tuple(replies.initial_metadata())


def test_a_stream_that_fails_midway_delivers_what_came_before(streams: Running) -> None:
    request = StringValue(value="ab!").SerializeToString()
    replies = streams.channel.unary_stream(f"/{NAME}/Spell")(request, timeout=5)
    assert [StringValue.FromString(next(replies)).value for _ in range(2)] == ["a", "b"]
    with pytest.raises(grpc.RpcError) as caught:
        next(replies)
    assert Failure(caught.value).info.reason == "INVALID_METADATA"


@pytest.mark.parametrize("name", METHODS)
def test_a_handler_that_raises_what_ends_generators_does_not_leave_its_caller_waiting(
    streams: Running, name: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(streams, name, ["GeneratorExit"], f"{name}-generator-exit")
    assert Failure(caught.value).info.reason == "INTERNAL"
    line = streams.call_log(f"{name}-generator-exit")
    assert line["grpc.code"] == "Internal"
    assert "GeneratorExit" in line["exception"]


def test_a_caller_that_leaves_in_the_middle_of_its_own_stream_is_recorded_once(streams: Running) -> None:
    more = iter(lambda: StringValue(value="a").SerializeToString(), None)
    replies = streams.channel.stream_stream(f"/{NAME}/Double")(more, metadata=(("x-request-id", "left"),))
    next(replies)
    replies.cancel()
    # grpcio can let the requests run out before it knows that the caller left, and the handler then ends as usual.
    assert streams.call_log("left")["grpc.code"] in ("Canceled", "OK")
