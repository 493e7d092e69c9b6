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

from handfast.client import Aborted, ServiceError, aio, channel
from handfast.server.chassis import errors
from handfast.server.chassis.errors import Violation
from handfast.server.chassis.errors.size import cut, fit_status
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
AROUND_THE_LIMIT = [0, 1, 255, 256, 257, 1000, 1023, 1024, 1025, *range(1500, 8400, 150), 20_000, 300_000]


class Changed(errors.Aborted):
    reason = "USER_CHANGED"
    retry_after = 0.25


def refused(
    running: Running, error: Exception, trailers: Sequence[tuple[str, str | bytes]] = (), **options: Any
) -> Failure:
    """Checks what has to be there in each case."""

    def behavior(_request: users_pb2.GetUserRequest, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(tuple(trailers))
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
    for length in AROUND_THE_LIMIT:
        message = (text * (length // len(text) + 1))[:length]
        failure = refused(running, Changed(message, user_id="ada"))
        assert (failure.code, failure.info.reason) == (grpc.StatusCode.ABORTED, "USER_CHANGED")
        assert (retry_after(failure), dict(failure.info.metadata)) == (0.25, {"user_id": "ada"})
        assert is_start_of(failure.message, message)
        assert len(failure.message) >= min(length, 80)
        if length <= 256:
            assert failure.message == message
        if failure.message != message:
            assert running.call_log(failure.request_id)["error.cut"] is True


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("length", [1, 40, 1500])
def test_values_of_any_number_and_length_arrive_as_far_as_there_is_room(
    running: Running, text: str, length: int
) -> None:
    for number in (1, 10, 20, 30, 50, 70, 100) if length > 100 else (1, 10, 20, 30, 50, 70, 100, 2000):
        values: dict[str, Any] = {f"value_{n}": text * length for n in range(number)}
        failure = refused(running, Changed("m", short="s", **values))
        assert (failure.message, failure.info.reason, retry_after(failure)) == ("m", "USER_CHANGED", 0.25)
        arrived = dict(failure.info.metadata)
        assert arrived.pop("short") == "s"
        assert arrived
        assert all(is_start_of(value, text * length) for value in arrived.values())
        if number * length * len(text.encode()) < 2000 and number <= 20:
            assert arrived == values


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_violations_are_listed_as_far_as_there_is_room_and_the_rest_is_counted(running: Running, text: str) -> None:
    for number in (1, 5, 10, 12, 14, 16, 18, 20, 25, 30, 40, 60, 100, 2000):
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


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("length", [1, 30, 200, 3000])
def test_a_peers_error_of_any_size_passes_as_far_as_there_is_room(running: Running, text: str, length: int) -> None:
    for number in (0, 1, 3, 10, 30, 200):
        error = peers(*peers_details(text * length, number), message=text * length)
        failure = refused(running, error)
        assert failure.code is grpc.StatusCode.ABORTED
        assert (failure.info.reason, failure.info.domain) == ("PREFERENCES_CHANGED", "handfast.preferences")
        assert retry_after(failure) == 0.25
        assert is_start_of(failure.message, text * length)
        for bad_request in failure.details_of(error_details_pb2.BadRequest):
            *listed, last = bad_request.field_violations
            assert last.field or last.description == f"{number - len(listed)} more are not listed"
        if number <= 1 and length * len(text.encode()) <= 200:  # all of it fits
            kinds = (error_details_pb2.DebugInfo, error_details_pb2.Help, error_details_pb2.LocalizedMessage)
            assert [len(failure.details_of(kind)) for kind in kinds] == [1, 1, 1]


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


@pytest.mark.parametrize(("number", "length"), [(1, 10), (1, 1500), (1, 1900), (3, 600), (1, 7000), (100, 50)])
@pytest.mark.parametrize("key", ["hint", "hint-bin"])
def test_other_trailers_and_the_error_fit_together(running: Running, key: str, number: int, length: int) -> None:
    """Where all are too many, those of the transaction and of gRPC stay."""
    ours = [("handfast-transaction-id", "01a2064d-0405-7030-95f9-b6516007df33"), ("grpc-retry-pushback-ms", "-1")]
    keys = [f"{n}-{key}" for n in range(number)]
    trailers: list[tuple[str, Any]] = [(each, b"x" * length if is_binary(key) else "x" * length) for each in keys]
    worst = peers(*peers_details("漢" * 200, 300), message="漢" * 3000)
    failure = refused(running, worst, (*trailers, *ours), metadata=(("x-request-id", "~" * 128),))
    assert retry_after(failure) == 0.25
    assert failure.trailers.items() >= dict(ours).items()
    arrived = [each for each in keys if each in failure.trailers]
    fits = number * (length * (4 / 3 if is_binary(key) else 1) + 50) < 1600
    assert len(arrived) == number if fits else 0 <= len(arrived) < number


def test_an_error_that_fits_is_sent_as_it_is_and_one_byte_more_is_too_much() -> None:
    status = status_of(*peers_details("a" * 20, 10))
    room = LIMIT - size_of(status, [("hint", "")])
    fitting, beyond = [("hint", "x" * room)], [("hint", "x" * (room + 1))]
    assert size_of(status, fitting) == LIMIT
    assert fit_status(status, fitting) is status
    assert size_of(fit_status(status, beyond), beyond) <= LIMIT


def test_no_error_is_larger_than_promised_whatever_it_is_made_of() -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(400):
        number, length, text = draw.randrange(40), draw.randrange(300), draw.choice([*SCRIPTS.values()])
        details = draw.sample(peers_details(text * length, number), 7)
        details = [each for each in details if not isinstance(each, error_details_pb2.RequestInfo)][
            : draw.randint(1, 6)
        ]
        details += [
            error_details_pb2.RequestInfo(request_id="r" * 128),
            *(
                error_details_pb2.LocalizedMessage(locale="de", message="a" * draw.randrange(700))
                for _ in range(draw.randrange(20))
            ),
        ]
        status = status_of(*details, message=text * draw.randrange(400))
        trailers = [("hint", "x" * draw.randrange(1800))]
        fitted = fit_status(status, trailers)
        assert size_of(fitted, trailers) <= LIMIT
        assert (fitted is status) == (size_of(status, trailers) <= LIMIT)


@pytest.mark.parametrize("length", [60, 200])
def test_little_room_is_lost_where_there_is_more_to_say(length: int) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="user", description="a" * length)
    localized = error_details_pb2.LocalizedMessage(locale="de", message="a" * length)
    values = {f"value_{n}": "a" * length for n in range(300)}
    for details in (
        [error_details_pb2.BadRequest(field_violations=[violation] * 1000)],
        [localized] * 1000,
        [error_details_pb2.ErrorInfo(metadata=values), *[localized] * 1000],
    ):
        assert size_of(fit_status(status_of(*details), []), []) > LIMIT * 7 / 8


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_a_text_is_cut_at_the_last_character_for_which_there_is_room(text: str) -> None:
    for limit in (9, 10, 40):
        for length in range(60):
            whole = (text * length)[:length]
            shown = cut(whole, limit)
            if len(percent_encoded(whole)) <= limit:
                assert shown == whole
            else:
                assert is_start_of(shown, whole)
                assert len(percent_encoded(shown)) <= limit < len(percent_encoded(f"{whole[: len(shown)]}…"))


def test_of_the_values_of_an_error_the_short_ones_come_first() -> None:
    values = {f"{'long' if n % 2 else 'short'}_{n}": "x" * (200 if n % 2 else 2) for n in range(20)}
    info = error_details_pb2.ErrorInfo()
    fit_status(status_of(error_details_pb2.ErrorInfo(metadata=values), message="m" * 9000), []).details[0].Unpack(info)
    assert [name for name in values if name.startswith("short")] == sorted(
        (name for name in info.metadata if name.startswith("short")), key=list(values).index
    )
    assert 0 < sum(name.startswith("long") for name in info.metadata) < 10


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


def test_text_that_utf_8_cannot_carry_does_not_hide_the_error(running: Running) -> None:
    failure = refused(running, Changed("user \ud800", user_id="\udfff"))
    assert (failure.info.reason, failure.message) == ("USER_CHANGED", "user ?")
    assert dict(failure.info.metadata) == {"user_id": "?"}
