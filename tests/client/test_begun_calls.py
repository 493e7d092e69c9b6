"""Calls that are begun beside others, and waited for: as `.future`, without a thread."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from handfast.client import DeadlineExceeded, NotFound, Unavailable, channel
from handfast.client.begun_call import BegunCall, begin
from handfast.client.calls import CallFuture
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.eventually import eventually

from .backend import Backend, serve

REQUEST = GetUserRequest(user_id="ada")


@pytest.fixture(params=[None, lambda: "abc"], ids=["", "with a token"])
def users(backend: Backend, request: pytest.FixtureRequest) -> Iterator[UserServiceStub]:
    with channel(backend.address, token=request.param) as opened:
        users = UserServiceStub(opened)
        users.GetUser(REQUEST)  # so that the token is there
        backend.received.clear()
        yield users
    # Ctrl-C can leave a lock of a gRPC channel to the main thread, and any other that then collects the channel hangs.
    del users, opened
    gc.collect()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The states of gRPC's own calls, of which in the end no event is left to take."""
    states: list[Any] = []
    init = BegunCall.__init__

    def keep(self: BegunCall, *arguments: Any) -> None:
        init(self, *arguments)
        states.append(self._state)

    monkeypatch.setattr(BegunCall, "__init__", keep)
    yield states
    gc.collect()
    assert states
    assert [state.due for state in states] == [set()] * len(states)


def test_calls_that_were_begun_run_side_by_side(backend: Backend, users: UserServiceStub, kept: list[Any]) -> None:
    together = threading.Barrier(4, timeout=20)  # passes only if four handlers run at once
    backend.behave = lambda context, attempt: together.wait() and None
    calls = [begin(users.GetUser, REQUEST) for _ in range(4)]
    assert [call.result().user.user_id for call in calls] == ["ada"] * 4
    assert len(kept) == 4


def test_a_begun_call_goes_out_while_another_one_is_waited_for(backend: Backend, kept: list[Any]) -> None:
    other = Backend()
    server = serve(other)
    arrived = threading.Event()
    other.behave = lambda context, attempt: arrived.set()
    backend.behave = lambda context, attempt: arrived.wait(20) and None
    with channel(backend.address) as first, channel(other.address) as second:  # neither is connected yet
        large = UpdateUserRequest(user=User(user_id="bob", display_name="b" * 3_000_000))  # more than is sent at once
        calls = [
            begin(UserServiceStub(first).GetUser, REQUEST),
            begin(UserServiceStub(second).UpdateUser, large),
        ]
        calls[0].result()
        assert arrived.is_set()
        calls[1].result()
    server.stop(None)


def test_a_begun_call_has_the_trailers_of_its_reply(backend: Backend, users: UserServiceStub, kept: list[Any]) -> None:
    def behave(context: grpc.ServicerContext, _attempt: int) -> None:
        context.set_trailing_metadata((("handfast-staged", "users"),))

    backend.behave = behave
    call = begin(users.GetUser, REQUEST)
    call.result()
    assert dict(call.trailing_metadata())["handfast-staged"] == "users"


def test_a_begun_call_that_fails_raises_the_typed_error(
    backend: Backend, users: UserServiceStub, kept: list[Any]
) -> None:
    backend.fail(1, grpc.StatusCode.NOT_FOUND)
    call = begin(users.GetUser, REQUEST, metadata=(("x-request-id", "r1"),))
    with pytest.raises(NotFound) as failed:
        call.result()
    assert failed.value.request_id == "r1"
    assert isinstance(failed.value.__cause__, grpc.RpcError)


def test_a_begun_call_is_tried_again_where_its_contract_makes_that_safe(
    backend: Backend, users: UserServiceStub, kept: list[Any]
) -> None:
    backend.fail(2)
    assert begin(users.GetUser, REQUEST).result().user.user_id == "ada"
    assert len(backend.received) == 3
    write = begin(users.UpdateUser, UpdateUserRequest(user=User(user_id="bob")))
    assert write.result().user.user_id == "bob"
    assert backend.received[-1].request.request_id


def test_a_begun_call_ends_with_its_deadline(backend: Backend, users: UserServiceStub, kept: list[Any]) -> None:
    release = threading.Event()
    backend.behave = lambda context, attempt: release.wait(20) and None
    call = begin(users.GetUser, REQUEST, timeout=0.05)
    with pytest.raises(DeadlineExceeded):
        call.result()
    release.set()


def test_a_begun_call_can_be_cancelled_while_another_thread_waits_for_it(
    backend: Backend, users: UserServiceStub, kept: list[Any]
) -> None:
    release = threading.Event()
    backend.behave = lambda context, attempt: release.wait(20) and None
    call = begin(users.GetUser, REQUEST)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            call.result()
        except BaseException as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert eventually(lambda: backend.received)
    call.cancel()
    waiting.join(20)
    release.set()
    assert [type(error) for error in raised] == [grpc.FutureCancelledError]


def test_a_begun_call_whose_wait_is_interrupted_is_given_up(backend: Backend, users: UserServiceStub) -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def behave(context: grpc.ServicerContext, attempt: int) -> None:
        context.add_callback(ended.set)
        begun.wait(20)  # before that, nobody can give it up
        signal.pthread_kill(main, signal.SIGINT)
        release.wait(20)

    backend.behave = behave
    call = begin(users.GetUser, REQUEST)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 (it may come at once)
        begun.set()
        call.result()
    assert ended.wait(20)  # the server is told
    release.set()


def test_a_begun_call_that_is_cancelled_first_or_never_waited_for_leaves_nothing_behind(
    backend: Backend, users: UserServiceStub, kept: list[Any]
) -> None:
    call = begin(users.GetUser, REQUEST)
    call.cancel()
    assert kept[0].due == set()  # nothing is left to whatever deletes it, which could not be interrupted by Ctrl-C
    with pytest.raises(grpc.FutureCancelledError):
        call.result()
    del call
    begin(users.GetUser, REQUEST)
    assert len(kept) == 2


def test_a_begun_call_that_is_cancelled_once_it_was_answered_is_cancelled_all_the_same(
    backend: Backend, users: UserServiceStub, kept: list[Any]
) -> None:
    call = begin(users.GetUser, REQUEST)
    assert eventually(lambda: backend.received)
    users.GetUser(REQUEST)  # by the same connection, so the answer to the first is here, too
    call.cancel()
    with pytest.raises(grpc.FutureCancelledError):
        call.result()


@pytest.mark.usefixtures("short_pauses")
def test_a_begun_call_to_a_server_that_is_away_says_so(kept: list[Any]) -> None:
    with channel("127.0.0.1:1") as away, pytest.raises(Unavailable):
        begin(UserServiceStub(away).UpdateUser, UpdateUserRequest(), timeout=5).result()


def test_a_closed_channel_begins_no_calls(backend: Backend) -> None:
    for used_before in (True, False):
        with channel(backend.address) as opened:
            users = UserServiceStub(opened)
            if used_before:
                begin(users.GetUser, REQUEST).result()
        with pytest.raises(ValueError, match="closed channel"):
            begin(users.GetUser, REQUEST)


class Seeing(grpc.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[str] = []

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.methods.append(client_call_details.method)
        return continuation(client_call_details, request)


def test_interceptors_see_a_begun_call_as_any_other(backend: Backend) -> None:
    seeing = Seeing()
    with channel(backend.address, interceptors=[seeing]) as opened:
        assert begin(UserServiceStub(opened).GetUser, REQUEST).result().user.user_id == "ada"
    assert seeing.methods == ["/handfast.users.v1.UserService/GetUser"]


def test_a_call_on_any_other_channel_can_be_begun_as_well(backend: Backend) -> None:
    with grpc.insecure_channel(backend.address) as bare:
        assert begin(UserServiceStub(bare).GetUser, REQUEST).result().user.user_id == "ada"


def test_a_call_is_begun_with_a_grpcio_that_is_another_inside(
    backend: Backend, users: UserServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("grpc._channel._end_unary_response_blocking")
    backend.fail(1)
    call = begin(users.GetUser, REQUEST)
    assert isinstance(call, CallFuture)
    assert call.result().user.user_id == "ada"
    assert len(backend.received) == 2
