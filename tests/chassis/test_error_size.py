"""An error of any size reaches a client of default limits: with its code, reason, delay and request id at least."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from handfast.client import Aborted, InvalidArgument, ServiceError, aio, channel
from handfast.server.chassis import errors
from handfast.server.chassis.call import Call, Method, Pool, current
from handfast.server.chassis.errors import Violation
from handfast.server.chassis.errors.mapping import to_status
from handfast.users.v1 import users_pb2, users_pb2_grpc

from .conftest import Failure, Running

LIMIT = 7 * 1024  # which docs/errors.md promises
SCRIPTS = {
    "ascii": "a",
    "latin": "ä",
    "percent": "%",
    "line ends": "\n",
    "han": "漢",
    "beyond": "𝄞",
    "mixed": "aä%\n漢𝄞 ",
}


class Changed(errors.Aborted):
    reason = "USER_CHANGED"
    retry_after = 0.25


def refused(running: Running, error: Exception, trailers: Any = (), ours: Any = (), **options: Any) -> Failure:
    """Checks what has to be there in each case. `ours` are trailers that the chassis adds."""

    def behavior(_request: users_pb2.GetUserRequest, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(trailers)
        for key, value in ours:
            current().add_trailer(key, value)
        raise error

    failure = running.failure(behavior, **options)
    assert failure.info.reason
    assert failure.info.domain
    assert failure.named_request_id == failure.request_id != ""
    assert size(failure.message, failure.trailers.items()) <= LIMIT
    return failure


def size(message: str, trailers: Iterable[tuple[str, str | bytes]]) -> int:
    """What a client counts against its limit: RFC 9113, 6.5.2, with binary values in base64."""
    entries = [("grpc-message", percent_encoded(message)), ("grpc-status", "14")]
    for key, value in trailers:
        entries.append((key, "x" * (-(-len(value) * 4 // 3)) if is_binary(key) else str(value)))
    return sum(len(key) + len(value) + 32 for key, value in entries)


def size_of(status: status_pb2.Status, trailers: Sequence[tuple[str, str | bytes]]) -> int:
    return size(status.message, (*trailers, *rpc_status.to_status(status).trailing_metadata))


def percent_encoded(message: str) -> str:
    return quote(message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")


def is_binary(key: str) -> bool:
    return key.endswith("-bin")


def retry_after(failure: Failure) -> float:
    (info,) = failure.details_of(error_details_pb2.RetryInfo)
    seconds: float = info.retry_delay.ToTimedelta().total_seconds()
    return seconds


def is_start_of(cut: str, whole: str) -> bool:
    return cut == whole or (cut.endswith("…") and whole.startswith(cut.removesuffix("…")))


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_a_message_of_any_length_arrives_as_far_as_there_is_room(running: Running, text: str) -> None:
    for length in (0, 1, 128, 511, 512, 513, 20_000):
        message = (text * (length // len(text) + 1))[:length]
        failure = refused(running, Changed(message, user_id="ada"))
        assert (failure.code, failure.info.reason) == (grpc.StatusCode.ABORTED, "USER_CHANGED")
        assert (retry_after(failure), dict(failure.info.metadata)) == (0.25, {"user_id": "ada"})
        assert is_start_of(failure.message, message)
        assert len(failure.message) >= min(length, 120)
        assert (failure.message == message) == (len(message.encode()) <= 512)
        assert running.call_log(failure.request_id).get("error.cut", False) is (failure.message != message)


@pytest.mark.parametrize("text", ["a", "mixed aä%\n漢𝄞 "])
@pytest.mark.parametrize("length", [1, 40, 1500])
def test_values_of_any_number_and_length_arrive_as_far_as_there_is_room(
    running: Running, text: str, length: int
) -> None:
    for number in (1, 10, 100, 2000 // length):
        values: dict[str, Any] = {f"value_{n}": text * length for n in range(number)}
        failure = refused(running, Changed("m", short="s", **values))
        assert (failure.message, failure.info.reason, retry_after(failure)) == ("m", "USER_CHANGED", 0.25)
        arrived = dict(failure.info.metadata)
        assert arrived.pop("short") == "s"
        assert arrived
        assert all(is_start_of(value, text * length) for value in arrived.values())
        if length * len(text.encode()) <= 256 and number * (length * len(text.encode()) + 20) < 1000:
            assert arrived == values


@pytest.mark.parametrize("text", ["a", "mixed aä%\n漢𝄞 "])
def test_violations_are_listed_as_far_as_there_is_room_and_the_rest_is_counted(running: Running, text: str) -> None:
    for number in (1, 7, 8, 9, 30, 60, 2000):
        violations = [Violation(f"user.labels[{n}]", text * 30, "WRONG") for n in range(number)]
        failure = refused(running, errors.InvalidFields(violations))
        assert failure.info.reason == "INVALID_FIELDS"
        (bad_request,) = failure.details_of(error_details_pb2.BadRequest)
        *listed, last = bad_request.field_violations
        if last.field:
            assert len(listed) + 1 == number
        else:
            assert last.description == f"{number - len(listed)} more are not listed"
        assert len(listed) >= min(number - 1, 7)
        assert all(is_start_of(each.description, text * 30) and each.reason == "WRONG" for each in listed)
        assert running.call_log(failure.request_id)["error.violations"] == number


def status_of(*details: Message, message: str = "no") -> status_pb2.Status:
    status = status_pb2.Status(code=grpc.StatusCode.ABORTED.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def peers(*details: Message, message: str = "no") -> ServiceError:
    return Aborted(message, status_proto=status_of(*details, message=message))


def peers_details(text: str, number: int) -> list[Message]:
    """All that a peer may say, each `number` times; what is refused and why comes last."""
    retry_info = error_details_pb2.RetryInfo()
    retry_info.retry_delay.FromMilliseconds(250)
    violation = error_details_pb2.BadRequest.FieldViolation(field="user", description=text, reason="WRONG")
    return [
        error_details_pb2.DebugInfo(stack_entries=[text] * number, detail=text),
        error_details_pb2.Help(links=[error_details_pb2.Help.Link(description=text)] * number),
        error_details_pb2.BadRequest(field_violations=[violation] * number),
        error_details_pb2.LocalizedMessage(locale="de", message=text),
        error_details_pb2.RequestInfo(request_id="the peer's", serving_data=text * number),
        retry_info,
        error_details_pb2.ErrorInfo(
            reason="PREFERENCES_CHANGED",
            domain="handfast.preferences",
            metadata={f"value_{n}": text for n in range(number)},
        ),
    ]


@pytest.mark.parametrize("number", [0, 1, 10, 200])
def test_a_peers_error_of_any_size_passes_as_far_as_there_is_room(running: Running, number: int) -> None:
    for text in ("a", "漢" * 30, "aä%\n漢𝄞 " * 200):
        failure = refused(running, peers(*peers_details(text, number), message=text))
        assert failure.code is grpc.StatusCode.ABORTED
        assert (failure.info.reason, failure.info.domain) == ("PREFERENCES_CHANGED", "handfast.preferences")
        assert retry_after(failure) == 0.25
        assert is_start_of(failure.message, text)
        for bad_request in failure.details_of(error_details_pb2.BadRequest):
            *listed, last = bad_request.field_violations
            assert last.field or last.description == f"{number - len(listed)} more are not listed"
        if number <= 1 and len(text) <= 30:  # all of it fits
            kinds = (error_details_pb2.DebugInfo, error_details_pb2.Help, error_details_pb2.LocalizedMessage)
            assert [len(failure.details_of(kind)) for kind in kinds] == [1, 1, 1]


def test_an_error_passes_several_servers_without_change(running: Running) -> None:
    violations = [Violation(f"user.labels[{n}]", "ist falsch " * 9) for n in range(100)]
    first = refused(running, errors.InvalidFields(violations))
    second = refused(running, InvalidArgument(first.message, status_proto=first.status))
    kind = error_details_pb2.BadRequest
    assert (second.message, second.info, second.details_of(kind)) == (first.message, first.info, first.details_of(kind))


def test_a_peers_small_details_pass_where_its_large_ones_do_not(running: Running) -> None:
    debug_info = error_details_pb2.DebugInfo(detail="x" * 9000)
    localized = error_details_pb2.LocalizedMessage(locale="de", message="nein")
    failure = refused(running, peers(debug_info, localized, *peers_details("a", 1)[-1:]))
    assert failure.details_of(error_details_pb2.DebugInfo) == []
    assert failure.details_of(error_details_pb2.LocalizedMessage) == [localized]


def test_a_peer_that_names_itself_at_length_is_cut_as_well(running: Running) -> None:
    info = error_details_pb2.ErrorInfo(reason="R" * 9000, domain="d" * 9000)
    failure = refused(running, peers(info))
    assert is_start_of(failure.info.reason, info.reason)
    assert is_start_of(failure.info.domain, info.domain)


@pytest.mark.parametrize(("number", "length"), [(1, 10), (1, 150), (1, 1900), (3, 600), (1, 7000), (100, 50)])
@pytest.mark.parametrize("key", ["hint", "hint-bin"])
def test_other_trailers_and_the_error_fit_together(running: Running, key: str, number: int, length: int) -> None:
    """Where all are too many, those of the chassis stay."""
    ours = [("handfast-transaction-id", "01a2064d-0405-7030-95f9-b6516007df33"), ("grpc-retry-pushback-ms", "-1")]
    keys = [f"{n}-{key}" for n in range(number)]
    trailers: list[tuple[str, Any]] = [(each, b"x" * length if is_binary(key) else "x" * length) for each in keys]
    worst = peers(*peers_details("漢" * 200, 300), message="%" * 3000)
    failure = refused(running, worst, trailers, ours, metadata=(("x-request-id", "~" * 128),))
    assert retry_after(failure) == 0.25
    assert failure.trailers.items() >= dict(ours).items()
    arrived = [each for each in keys if each in failure.trailers]
    assert len(arrived) == number if number * length < 200 else 0 <= len(arrived) < number
    small = refused(running, Changed("m"), trailers, ours)
    arrived = [each for each in keys if each in small.trailers]
    assert (arrived == keys) == (number * length < 4000)


@pytest.mark.parametrize("way", ["abort", "abort with status", "set"])
@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_what_a_handler_says_by_grpcs_own_means_arrives_as_far_as_there_is_room(
    running: Running, way: str, text: str
) -> None:
    message = text * 5000

    def behavior(_request: Any, context: Any) -> users_pb2.GetUserResponse:
        context.set_trailing_metadata((("x-small", "s"), ("x-large", "l" * 7000)))
        if way == "abort":
            context.abort(grpc.StatusCode.NOT_FOUND, message)
        if way == "abort with status":
            context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=5, message=message)))
        context.set_trailing_metadata((("x-small", "s"),))
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details(message)
        return users_pb2.GetUserResponse()

    failure = running.failure(behavior)
    assert failure.code is grpc.StatusCode.NOT_FOUND
    assert failure.message.endswith("…")
    assert message.startswith(failure.message[:-1])
    assert failure.trailers.get("x-small") == ("s" if way != "abort with status" else None)
    assert size(failure.message, failure.trailers.items()) <= LIMIT
    line = running.call_log(failure.request_id)
    assert (line["grpc.code"], line["error.cut"]) == ("NotFound", True)


def test_trailers_that_no_client_would_take_beside_a_reply_are_refused(running: Running) -> None:
    def behavior(_request: Any, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        context.set_trailing_metadata((("x-small", "s"), ("x-large", "l" * LIMIT)))
        return users_pb2.GetUserResponse()

    failure = running.failure(behavior)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESPONSE_TOO_LARGE")
    assert failure.trailers["x-small"] == "s"
    assert running.call_log(failure.request_id)["grpc.code"] == "ResourceExhausted"


def test_initial_metadata_that_no_client_would_take_is_not_sent(running: Running) -> None:
    def behavior(_request: Any, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        context.send_initial_metadata((("x-large", "l" * LIMIT),))
        return users_pb2.GetUserResponse()

    failure = running.failure(behavior)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESPONSE_TOO_LARGE")
    assert running.call_log(failure.request_id)["grpc.code"] == "ResourceExhausted"


@pytest.mark.parametrize("by_the_call", [False, True], ids=["by the context", "by the call"])
@pytest.mark.parametrize("entry", [("Capital", "v"), ("k", "two\nlines"), ("k", "ä"), ("grpc-timeout", "1S")], ids=str)
def test_initial_metadata_that_cannot_be_sent_is_an_internal_error(
    running: Running, entry: Any, by_the_call: bool
) -> None:
    def reply(_request: Any, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        if by_the_call:
            current().send_initial_metadata(entry)
        else:
            context.send_initial_metadata((entry,))
        return users_pb2.GetUserResponse()

    failure = running.failure(reply)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "initial metadata" in running.call_log(failure.request_id)["exception"]


@pytest.mark.parametrize(
    "trailers",
    [
        (("Capital", "v"),),
        (("k", 5),),
        (("k", "two\nlines"),),
        (("k", "ä"),),
        (("k-bin", 5),),
        (("k",),),
        (("grpc-timeout", "1S"),),
        {"k": "v"},
        (5, 6),
        5,
        pytest.param(zip(["k"], ["v"], strict=True), id="zip"),
    ],
    ids=str,
)
def test_trailers_that_cannot_be_sent_hold_up_no_caller_and_end_no_server(running: Running, trailers: Any) -> None:
    def reply(_request: Any, context: grpc.ServicerContext) -> users_pb2.GetUserResponse:
        context.set_trailing_metadata(trailers)
        return users_pb2.GetUserResponse()

    failure = running.failure(reply)
    assert (failure.code, failure.info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "trailing metadata" in running.call_log(failure.request_id)["exception"]
    assert refused(running, Changed("no"), trailers).code is grpc.StatusCode.ABORTED


def test_no_error_is_larger_than_promised_whatever_it_is_made_of() -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    draw = random.Random(seed)
    call = Call(Method("/s/m", "s", "m", "unary", "d" * 128, Pool("p", 1)), "/s/m", (("x-request-id", "~" * 128),))
    ours = [("handfast-transaction-id", "x" * 36), ("grpc-retry-pushback-ms", "-1"), ("x-request-id", "~" * 128)]
    for _ in range(400):
        number, length, text = draw.randrange(40), draw.randrange(300), draw.choice([*SCRIPTS.values()])
        details = draw.sample(peers_details(text * length, number), draw.randint(1, 7))
        details += [
            error_details_pb2.LocalizedMessage(locale="de", message="a" * draw.randrange(700))
            for _ in range(draw.randrange(20))
        ]
        error = peers(*details, message=text * draw.randrange(1000))
        assert size_of(to_status(error, call), ours) <= LIMIT


def test_both_clients_take_an_error_that_was_cut(running: Running) -> None:
    violations = [Violation(f"user.labels[{n}]", "ist falsch, weil ä€𝄞 " * 20) for n in range(1000)]

    def behavior(_request: users_pb2.GetUserRequest, _context: grpc.ServicerContext) -> None:
        raise errors.InvalidFields(violations)

    running.servicer.behavior = behavior
    address = f"127.0.0.1:{running.server.port}"

    async def call_asynchronously() -> None:
        async with aio.channel(address) as opened:
            await users_pb2_grpc.UserServiceStub(opened).GetUser(users_pb2.GetUserRequest())

    with channel(address) as opened, pytest.raises(ServiceError) as caught:
        users_pb2_grpc.UserServiceStub(opened).GetUser(users_pb2.GetUserRequest())
    with pytest.raises(ServiceError) as caught_asynchronously:
        asyncio.run(call_asynchronously())
    for error in (caught.value, caught_asynchronously.value):
        assert (error.reason, error.service) == ("INVALID_FIELDS", "handfast.users")
        assert error.violations[-1].description == f"{1001 - len(error.violations)} more are not listed"


def test_what_is_cut_from_a_message_leaves_no_half_of_a_name_in_the_log(running: Running) -> None:
    def behavior(_request: users_pb2.GetUserRequest, _context: grpc.ServicerContext) -> None:
        current().request = users_pb2.User(display_name="Ada Lovelace")
        raise Changed("x" * 500 + " Ada Lovelace")

    failure = running.failure(behavior)
    assert "Ada" in failure.message
    assert "Ada" not in running.call_log(failure.request_id)["error.message"]


def test_text_that_utf_8_cannot_carry_does_not_hide_the_error(running: Running) -> None:
    failure = refused(running, Changed("user \ud800", user_id="\udfff"))
    assert (failure.info.reason, failure.message) == ("USER_CHANGED", "user ?")
    assert dict(failure.info.metadata) == {"user_id": "?"}
