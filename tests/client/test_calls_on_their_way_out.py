"""What a channel adds to each call: ids, deadlines, and what a call being served hands on."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import astuple
from typing import Any

import pytest
from google.protobuf.message import Message

from handfast.client import DeadlineExceeded, aio, channel
from handfast.client.methods import new_uuid
from handfast.client.propagation import CURRENT, Propagated, propagating
from handfast.transactions.v1.transactions_pb2 import GetTransactionRequest
from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub

from .backend import Backend, Received

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(params=["sync", "aio"])
def send(request: pytest.FixtureRequest, backend: Backend) -> Any:
    """Makes one call with either face of the client, and gives what the server received."""

    def send(message: Message, *, channel_timeout: float = 10.0, **options: Any) -> Received:
        method = type(message).__name__.removesuffix("Request")

        async def call() -> None:
            async with aio.channel(backend.address, timeout=channel_timeout) as opened:
                await getattr(_stub(opened, method), method)(message, **options)

        if request.param == "aio":
            asyncio.run(call())
        else:
            with channel(backend.address, timeout=channel_timeout) as opened:
                getattr(_stub(opened, method), method)(message, **options)
        return backend.received[-1]

    return send


def about(seconds: float) -> Any:
    """Less what the call took to arrive, or a little more, as gRPC rounds a deadline up when it sends it."""
    return pytest.approx(seconds, abs=9)


def _stub(opened: Any, method: str) -> Any:
    return TransactionServiceStub(opened) if "Transaction" in method else UserServiceStub(opened)


def test_every_call_has_a_request_id_of_its_own(send: Any) -> None:
    first, second = (send(GetUserRequest()).metadata["x-request-id"] for _ in range(2))
    assert uuid.UUID(first).version == 4
    assert first != second


def test_a_request_id_given_by_the_caller_is_kept(send: Any) -> None:
    assert send(GetUserRequest(), metadata=[("x-request-id", "mine"), ("a", "b")]).metadata["x-request-id"] == "mine"


def test_a_write_gets_an_idempotency_key_in_a_copy(send: Any) -> None:
    request = UpdateUserRequest(user=User(user_id="ada"))
    received = send(request)
    assert uuid.UUID(received.request.request_id).version == 4
    assert received.request.user == request.user
    assert received.request.request_id != received.metadata["x-request-id"]
    assert request.request_id == ""


def test_an_idempotency_key_given_by_the_caller_is_kept(send: Any) -> None:
    assert send(UpdateUserRequest(request_id="mine")).request.request_id == "mine"


def test_a_staged_write_gets_no_idempotency_key(send: Any) -> None:
    staged = (("handfast-transaction-id", "t"), ("handfast-operation", "1"))
    assert send(UpdateUserRequest(), metadata=staged).request.request_id == ""


def test_a_read_that_asks_for_a_request_id_gets_none_filled_in(send: Any) -> None:
    assert send(GetTransactionRequest(transaction_id="t")).request.request_id == ""


def test_the_deadline_of_the_call_counts_else_that_of_the_channel(send: Any) -> None:
    assert send(GetUserRequest(), channel_timeout=70.0).time_remaining == about(70)
    assert send(GetUserRequest(), channel_timeout=70.0, timeout=30.0).time_remaining == about(30)
    assert send(GetUserRequest(), channel_timeout=70.0, timeout=200.0).time_remaining == about(200)


def test_what_is_being_served_hands_on_its_request_id_trace_and_deadline(send: Any) -> None:
    with propagating(Propagated("outer", TRACEPARENT, time.monotonic() + 40)):
        received = send(GetUserRequest(), channel_timeout=70.0)
    assert received.metadata["x-request-id"] == "outer"
    assert received.metadata["traceparent"] == TRACEPARENT
    assert received.time_remaining == about(40)
    assert astuple(CURRENT.get()) == astuple(Propagated())


def test_a_shorter_deadline_than_the_one_handed_on_stands(send: Any) -> None:
    with propagating(Propagated(deadline_monotonic_s=time.monotonic() + 90)):
        assert send(GetUserRequest(), timeout=30.0).time_remaining == about(30)


def test_metadata_of_the_call_goes_before_what_is_handed_on(send: Any) -> None:
    with propagating(Propagated("outer", TRACEPARENT)):
        received = send(GetUserRequest(), metadata=(("x-request-id", "mine"), ("traceparent", "other")))
    assert (received.metadata["x-request-id"], received.metadata["traceparent"]) == ("mine", "other")


def test_without_time_left_no_call_is_made(send: Any, backend: Backend) -> None:
    with (
        propagating(Propagated("outer", deadline_monotonic_s=time.monotonic() - 1)),
        pytest.raises(DeadlineExceeded) as caught,
    ):
        send(GetUserRequest())
    assert caught.value.request_id == "outer"
    assert backend.received == []


def test_without_anything_handed_on_there_is_no_trace(send: Any) -> None:
    assert "traceparent" not in send(GetUserRequest()).metadata


def test_ids_that_are_made_for_calls_are_random_uuids() -> None:
    ids = [new_uuid() for _ in range(1000)]
    parsed = [uuid.UUID(each) for each in ids]
    assert len(set(ids)) == len(ids)
    assert [str(each) for each in parsed] == ids
    assert {(each.version, each.variant) for each in parsed} == {(4, uuid.RFC_4122)}
