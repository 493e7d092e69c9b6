"""UNAVAILABLE is tried again where the contract makes that safe, and nowhere else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from handfast.client import Aborted, DeadlineExceeded, Unavailable, aio, channel
from handfast.client.options import MAX_ATTEMPTS
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub

from .backend import WITHOUT_CONTRACT, Backend, error_info, retry_info, rich_status, serve

READ, WRITE = GetUserRequest(user_id="ada"), UpdateUserRequest(user=User(user_id="ada"))
STAGED = (("handfast-transaction-id", "t"), ("handfast-operation", "1"))


def blocking(address: str, method: str, request: Any, **options: Any) -> Any:
    with channel(address) as opened:
        return _method(opened, method)(request, **options)


def with_call(address: str, method: str, request: Any, **options: Any) -> Any:
    with channel(address) as opened:
        return _method(opened, method).with_call(request, **options)[0]


def future(address: str, method: str, request: Any, **options: Any) -> Any:
    with channel(address) as opened:
        return _method(opened, method).future(request, **options).result()


def asynchronous(address: str, method: str, request: Any, **options: Any) -> Any:
    async def call() -> Any:
        async with aio.channel(address) as opened:
            return await _method(opened, method)(request, **options)

    return asyncio.run(call())


def _method(opened: Any, method: str) -> Any:
    if method == "Spend":
        return opened.unary_unary(f"{WITHOUT_CONTRACT}/Spend")
    return getattr(UserServiceStub(opened), method)


Call = Callable[..., Any]
each_way = pytest.mark.parametrize("call", [blocking, with_call, future, asynchronous])


@each_way
@pytest.mark.parametrize(("method", "request_"), [("GetUser", READ), ("UpdateUser", WRITE)])
def test_an_idempotent_call_survives_two_failures(backend: Backend, call: Call, method: str, request_: Any) -> None:
    backend.fail(2)
    assert call(backend.address, method, request_).user.user_id == "ada"
    assert len(backend.received) == 3
    assert backend.received[2].metadata["grpc-previous-rpc-attempts"] == "2"


@each_way
def test_a_repeat_has_the_same_ids_as_the_first_attempt(backend: Backend, call: Call) -> None:
    backend.fail(2)
    call(backend.address, "UpdateUser", WRITE)
    assert len(backend.metadata_values("x-request-id")) == 1
    assert len({received.request.request_id for received in backend.received}) == 1


@each_way
@pytest.mark.usefixtures("short_pauses")
def test_attempts_are_limited(backend: Backend, call: Call) -> None:
    backend.fail(100)
    with pytest.raises(Unavailable):
        call(backend.address, "GetUser", READ)
    assert len(backend.received) == MAX_ATTEMPTS


@each_way
def test_a_method_without_a_contract_is_tried_once(backend: Backend, call: Call) -> None:
    backend.fail(1)
    with pytest.raises(Unavailable):
        call(backend.address, "Spend", b"1")
    assert len(backend.received) == 1


@each_way
def test_a_staged_call_is_tried_again_as_its_operation_number_identifies_it(backend: Backend, call: Call) -> None:
    backend.fail(1)
    assert call(backend.address, "Spend", b"1", metadata=STAGED) == b"1"
    assert len(backend.received) == 2


def test_other_errors_are_not_tried_again(backend: Backend) -> None:
    backend.fail_with(rich_status(grpc.StatusCode.ABORTED, "busy", error_info("PENDING_CHANGE"), retry_info(0)))
    with pytest.raises(Aborted):
        blocking(backend.address, "GetUser", READ)
    assert len(backend.received) == 1


def test_retries_end_with_the_deadline(backend: Backend) -> None:
    backend.fail(100)
    with pytest.raises((DeadlineExceeded, Unavailable)):
        blocking(backend.address, "GetUser", READ, timeout=1.0)  # all attempts would take over 2.5 s
    assert 1 <= len(backend.received) < MAX_ATTEMPTS


def test_a_restart_of_the_server_goes_unnoticed() -> None:
    backend = Backend()
    server = serve(backend)
    try:
        with channel(backend.address) as opened:
            stub = UserServiceStub(opened)
            stub.GetUser(READ)
            server.stop(0).wait()
            reply = stub.GetUser.future(READ)
            time.sleep(0.3)
            server = serve(backend, port=int(backend.address.rpartition(":")[2]))
            assert reply.result().user.user_id == "ada"
    finally:
        server.stop(0).wait()


def test_retried_and_other_calls_share_one_connection(backend: Backend) -> None:
    peers: set[str] = set()
    backend.behave = lambda context, attempt: peers.add(context.peer())
    with channel(backend.address) as opened:
        UserServiceStub(opened).GetUser(READ)
        _method(opened, "Spend")(b"1")
    assert len(peers) == 1


def test_a_large_request_is_tried_again_as_well(backend: Backend) -> None:
    backend.fail(1)
    labels = {"note": "x" * 3_000_000}
    blocking(backend.address, "UpdateUser", UpdateUserRequest(user=User(user_id="ada", labels=labels)))
    assert len(backend.received) == 2


def test_an_answer_that_has_begun_is_not_tried_again(backend: Backend) -> None:
    def behave(context: grpc.ServicerContext, attempt: int) -> None:
        context.send_initial_metadata((("begun", "yes"),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "on purpose")

    backend.behave = behave
    with pytest.raises(Unavailable):
        blocking(backend.address, "GetUser", READ)
    assert len(backend.received) == 1
