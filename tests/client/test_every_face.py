"""Every way to make a call raises the same error: synchronous and asyncio, of all arities, at once and later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeAlias

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from handfast.client import OutcomeUnknown, ServiceError, aio, channel

from .backend import WITHOUT_CONTRACT, Backend, error_info, retry_info, rich_status
from .test_errors import CLASSES

SPEND, COUNT, COLLECT, GATHER = (f"{WITHOUT_CONTRACT}/{name}" for name in ("Spend", "Count", "Collect", "Gather"))
# `Collect` and `Gather` read all requests before they fail: grpcio's asyncio client takes a request that can no longer
# be sent for an INTERNAL error of its own (https://github.com/grpc/grpc/issues/36066).
METADATA = (("x-request-id", "the-callers"),)

SYNC: dict[str, Callable[[Any], object]] = {
    "unary": lambda opened: opened.unary_unary(SPEND)(b"", metadata=METADATA),
    "unary, with_call": lambda opened: opened.unary_unary(SPEND).with_call(b"", metadata=METADATA),
    "unary, future": lambda opened: opened.unary_unary(SPEND).future(b"", metadata=METADATA).result(),
    "unary, exception": lambda opened: raised_by(opened.unary_unary(SPEND).future(b"", metadata=METADATA)),
    "replies stream": lambda opened: list(opened.unary_stream(COUNT)(b"", metadata=METADATA)),
    "requests stream": lambda opened: opened.stream_unary(COLLECT)(iter([b"a"]), metadata=METADATA),
    "requests stream, with_call": lambda opened: opened.stream_unary(COLLECT).with_call(
        iter([b"a"]), metadata=METADATA
    ),
    "requests stream, future": lambda opened: (
        opened.stream_unary(COLLECT).future(iter([b"a"]), metadata=METADATA).result()
    ),
    "both stream": lambda opened: list(opened.stream_stream(GATHER)(iter([b"a"]), metadata=METADATA)),
}


async def unary(opened: Any) -> None:
    await opened.unary_unary(SPEND)(b"", metadata=METADATA)


async def replies_iterated(opened: Any) -> None:
    async for _ in opened.unary_stream(COUNT)(b"", metadata=METADATA):
        pass


async def replies_read(opened: Any) -> None:
    call = opened.unary_stream(COUNT)(b"", metadata=METADATA)
    while await call.read() is not grpc.aio.EOF:
        pass


async def requests_iterated(opened: Any) -> None:
    await opened.stream_unary(COLLECT)(iter([b"a"]), metadata=METADATA)


async def requests_written(opened: Any) -> None:
    call = opened.stream_unary(COLLECT)(metadata=METADATA)
    await call.write(b"a")
    await call.done_writing()
    await call


async def both_iterated(opened: Any) -> None:
    async for _ in opened.stream_stream(GATHER)(iter([b"a"]), metadata=METADATA):
        pass


async def both_by_hand(opened: Any) -> None:
    call = opened.stream_stream(GATHER)(metadata=METADATA)
    await call.done_writing()
    while await call.read() is not grpc.aio.EOF:
        pass


Way: TypeAlias = Callable[[Any], Coroutine[Any, Any, None]]
ASYNCIO: tuple[Way, ...] = (
    unary,
    replies_iterated,
    replies_read,
    requests_iterated,
    requests_written,
    both_iterated,
    both_by_hand,
)


def raised_by(future: Any) -> None:
    raise future.exception()


def everything(error: ServiceError) -> dict[str, object]:
    """All that a caller can ask of an error."""
    return {
        "class": type(error),
        "code": (error.code(), error.status),
        "details": (error.details(), error.message),
        "text": str(error),
        "service": error.service,
        "reason": error.reason,
        "metadata": error.metadata,
        "violations": error.violations,
        "retry_after": error.retry_after,
        "retryable": error.retryable,
        "request_id": error.request_id,
        "status_proto": error.status_proto,
        "trailers": sorted(error.trailing_metadata()),
        "cause": isinstance(error.__cause__, grpc.RpcError),
    }


def seen(opened: Any) -> dict[str, dict[str, object]]:
    """What each way of calling on a synchronous channel raises."""
    errors = {}
    for name, call in SYNC.items():
        with pytest.raises(ServiceError) as caught:
            call(opened)
        errors[name] = everything(caught.value)
    return errors


async def seen_asynchronously(opened: Any, ways: Iterable[Way] = ASYNCIO) -> dict[str, dict[str, object]]:
    """What each way of calling on an asyncio channel raises."""
    errors = {}
    for each in ways:
        with pytest.raises(ServiceError) as caught:
            await each(opened)
        errors[f"asyncio, {each.__name__}"] = everything(caught.value)
    return errors


def seen_by_all(address: str) -> dict[str, dict[str, object]]:
    async def call_asynchronously() -> dict[str, dict[str, object]]:
        async with aio.channel(address) as opened:
            return await seen_asynchronously(opened)

    with channel(address) as opened:
        return seen(opened) | asyncio.run(call_asynchronously())


def whole(code: grpc.StatusCode, reason: str = "SOME_REASON") -> status_pb2.Status:
    """An error with every detail that the client knows, in words that are not ASCII."""
    violation = error_details_pb2.BadRequest.FieldViolation(field="user.name", description="ist 100 % ä€𝄞", reason="R")
    return rich_status(
        code,
        "zoë: 50 %\n",
        error_info(reason, user_id="zoë"),
        retry_info(1, 500_000_000),
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.LocalizedMessage(locale="de", message="nö"),
        error_details_pb2.RequestInfo(request_id="the-servers"),
    )


@pytest.mark.parametrize("code", CLASSES, ids=lambda code: code.name)
def test_an_error_with_details_is_the_same_however_the_call_is_made(backend: Backend, code: grpc.StatusCode) -> None:
    status = whole(code)
    backend.fail_with(status)
    seen = seen_by_all(backend.address)
    assert len(seen) == len(SYNC) + len(ASYNCIO)
    first = seen["unary"]
    assert first["class"] is CLASSES[code]
    assert first["details"] == ("zoë: 50 %\n",) * 2
    assert (first["service"], first["reason"], first["request_id"]) == ("handfast.users", "SOME_REASON", "the-servers")
    assert (first["metadata"], first["retry_after"], first["cause"]) == ({"user_id": "zoë"}, 1.5, True)
    assert first["status_proto"] == status
    assert {name: each for name, each in seen.items() if each != first} == {}


@pytest.mark.parametrize("code", CLASSES, ids=lambda code: code.name)
def test_an_error_without_details_is_the_same_however_the_call_is_made(backend: Backend, code: grpc.StatusCode) -> None:
    backend.fail(1000, code)
    seen = seen_by_all(backend.address)
    first = seen["unary"]
    assert (first["class"], first["service"], first["request_id"]) == (CLASSES[code], "", "the-callers")
    assert {name: each for name, each in seen.items() if each != first} == {}


def test_an_unknown_outcome_is_the_same_however_the_call_is_made(backend: Backend) -> None:
    backend.fail_with(whole(grpc.StatusCode.UNKNOWN, "OUTCOME_UNKNOWN"))
    assert {each["class"] for each in seen_by_all(backend.address).values()} == {OutcomeUnknown}


def test_details_that_cannot_be_read_do_not_hide_the_error(backend: Backend) -> None:
    status = whole(grpc.StatusCode.NOT_FOUND)
    status.details.add(type_url=status.details[0].type_url, value=b"\xff\xff")
    del status.details[0]
    backend.fail_with(status)
    seen = seen_by_all(backend.address)
    assert {(each["class"], each["reason"], each["retry_after"]) for each in seen.values()} == {
        (CLASSES[grpc.StatusCode.NOT_FOUND], "", 1.5)
    }
