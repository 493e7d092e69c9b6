"""`.future`: calls side by side, errors when asked for."""

from __future__ import annotations

import threading

import grpc
import pytest

from handfast.client import Cancelled, NotFound, channel
from handfast.users.v1.users_pb2 import GetUserRequest
from handfast.users.v1.users_pb2_grpc import UserServiceStub

from .backend import Backend

REQUEST = GetUserRequest(user_id="ada")


def test_calls_started_one_after_the_other_run_side_by_side(backend: Backend, users: UserServiceStub) -> None:
    together = threading.Barrier(4, timeout=20)  # passes only if four handlers run at once
    backend.behave = lambda context, attempt: together.wait() and None
    replies = [users.GetUser.future(REQUEST) for _ in range(4)]
    assert [reply.result().user.user_id for reply in replies] == ["ada"] * 4


def test_retries_of_several_calls_run_side_by_side(backend: Backend, users: UserServiceStub) -> None:
    together = threading.Barrier(4, timeout=20)  # passes only if all four are at their third attempt

    def behave(context: grpc.ServicerContext, _attempt: int) -> None:
        if dict(context.invocation_metadata()).get("grpc-previous-rpc-attempts") != "2":
            context.abort(grpc.StatusCode.UNAVAILABLE, "on purpose")
        together.wait()

    backend.behave = behave
    replies = [users.GetUser.future(REQUEST) for _ in range(4)]
    for reply in replies:
        reply.result()
    assert len(backend.received) == 12


def test_starting_a_call_does_not_wait_for_it(backend: Backend, users: UserServiceStub) -> None:
    release = threading.Event()
    backend.behave = lambda context, attempt: release.wait(5) and None
    reply = users.GetUser.future(REQUEST)
    assert not reply.done()
    assert reply.running()
    with pytest.raises(grpc.FutureTimeoutError):
        reply.result(timeout=0.05)
    release.set()
    assert reply.result(timeout=5).user.user_id == "ada"
    assert reply.exception() is None
    assert reply.traceback() is None
    assert reply.code() is grpc.StatusCode.OK


def test_a_failed_call_gives_the_same_typed_error_each_time(backend: Backend, users: UserServiceStub) -> None:
    backend.fail(1, grpc.StatusCode.NOT_FOUND)
    reply = users.GetUser.future(REQUEST)
    error = reply.exception()
    assert type(error) is NotFound
    assert reply.exception() is error
    with pytest.raises(NotFound) as caught:
        reply.result()
    assert caught.value is error
    assert isinstance(error.__cause__, grpc.RpcError)
    assert (reply.code(), reply.details()) == (grpc.StatusCode.NOT_FOUND, "on purpose")


def test_a_callback_gets_the_future_that_the_caller_has(backend: Backend, users: UserServiceStub) -> None:
    backend.fail(1, grpc.StatusCode.NOT_FOUND)
    called = threading.Event()
    seen: list[object] = []

    def callback(reply: object) -> None:
        seen.append(reply)
        called.set()

    reply = users.GetUser.future(REQUEST)
    reply.add_done_callback(callback)
    assert called.wait(5)
    assert seen == [reply]


def test_a_cancelled_call_says_so(backend: Backend, users: UserServiceStub) -> None:
    release = threading.Event()
    backend.behave = lambda context, attempt: release.wait(5) and None
    reply = users.GetUser.future(REQUEST)
    assert reply.cancel()
    assert reply.cancelled()
    with pytest.raises(grpc.FutureCancelledError):
        reply.result()
    release.set()


def test_metadata_of_a_reply_can_be_read(backend: Backend, users: UserServiceStub) -> None:
    def behave(context: grpc.ServicerContext, attempt: int) -> None:
        context.send_initial_metadata((("x-request-id", "first"),))
        context.set_trailing_metadata((("handfast-staged", "users"),))

    backend.behave = behave
    _, call = users.GetUser.with_call(REQUEST)
    for each in (users.GetUser.future(REQUEST), call):
        assert dict(each.initial_metadata())["x-request-id"] == "first"
        assert dict(each.trailing_metadata())["handfast-staged"] == "users"


@pytest.mark.usefixtures("short_pauses")
def test_a_call_cancelled_by_the_server_each_time_is_an_error(backend: Backend) -> None:
    backend.fail(100, grpc.StatusCode.CANCELLED)
    with channel(backend.address) as opened, pytest.raises(Cancelled):
        UserServiceStub(opened).GetUser(REQUEST)
