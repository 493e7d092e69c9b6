"""What calls of a synchronous transaction give back is a future and a call as gRPC has them, but has no thread."""

from __future__ import annotations

import asyncio
import itertools
import queue
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from handfast.client import Aborted, Cancelled, NotFound, Suite, aio, connect
from handfast.users.v1.users_pb2 import GetUserRequest
from tests.eventually import eventually

from .faces import Face
from .participants import Fakes
from .test_calls import ADA, ADAS, BOB, wait
from .test_endings import abort

GET = GetUserRequest(user_id="ada")


@pytest.fixture
def client(suite: Fakes) -> Iterator[Suite]:
    with connect(**suite.addresses()) as client:
        yield client


def test_a_call_that_is_over_tells_all_that_grpc_does(suite: Fakes, client: Suite) -> None:
    with client.transaction() as tx:
        reply, call = tx.users.UpdateUser.with_call(ADA)
        assert reply.user.user_id == "ada"
        assert (call.code(), call.details()) == (grpc.StatusCode.OK, "")
        assert dict(call.trailing_metadata())["handfast-staged"] == "users"
        assert list(call.initial_metadata()) == []
        assert not call.is_active()
        assert call.time_remaining() > 0
        assert not call.add_callback(lambda: None)  # which would not be called


def test_a_call_that_failed_tells_why(suite: Fakes, client: Suite) -> None:
    suite.users.before = abort(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
    with client.transaction() as tx:
        call = tx.users.UpdateUser.future(ADA)
        error = call.exception()
        assert isinstance(error, NotFound)
        assert (call.code(), call.details()) == (grpc.StatusCode.NOT_FOUND, "on purpose")
        assert call.traceback() is not None
        with pytest.raises(NotFound):
            call.result()
        tx.rollback()


def test_callbacks_are_called_though_nobody_waits(suite: Fakes, client: Suite) -> None:
    ended: queue.Queue[Any] = queue.Queue()
    with client.transaction() as tx:
        first, second = tx.users.UpdateUser.future(ADA), tx.users.UpdateUser.future(BOB)
        second.add_done_callback(ended.put)
        assert ended.get(timeout=20) is second
        assert first.done()
        second.add_done_callback(ended.put)  # at once
        assert ended.get_nowait() is second


def test_who_only_looks_sees_it_end(suite: Fakes, client: Suite) -> None:
    released = threading.Event()
    suite.users.before = lambda method, context: wait(released)
    with client.transaction() as tx:
        call = tx.users.UpdateUser.future(ADA)
        assert not call.done()
        assert call.running()
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=0.01)
        released.set()
        assert eventually(call.done)
        assert call.result(timeout=0).user.user_id == "ada"


def test_a_read_that_waits_can_be_cancelled_and_the_others_go_on(suite: Fakes, client: Suite) -> None:
    with client.transaction() as tx:
        first, second, third = (
            tx.users.UpdateUser.future(ADA),
            tx.users.GetUser.future(GET),
            tx.users.UpdateUser.future(BOB),
        )
        assert second.cancel()
        assert second.cancelled()
        assert third.result().user.user_id == "bob"
        with pytest.raises(grpc.FutureCancelledError):
            second.result()
        assert second.code() is grpc.StatusCode.CANCELLED
        assert not first.cancel()  # it is over
    assert suite.users.numbers() == [("UpdateUser", "1"), ("UpdateUser", "2")]
    assert suite.coordinator.decisions == {tx.id: {"users": 2}}


def test_after_a_write_that_waits_was_cancelled_nothing_is_committed(suite: Fakes, client: Suite) -> None:
    with pytest.raises(Cancelled), client.transaction() as tx:  # noqa: PT012
        first, second, third = (tx.users.UpdateUser.future(request) for request in (ADA, BOB, ADA))
        assert second.cancel()
        assert first.result().user.user_id == "ada"
        assert isinstance(third.exception(), Aborted)
    assert suite.users.numbers() == [("UpdateUser", "1")]
    assert suite.coordinator.decisions == {tx.id: None}


class CancelledLate:
    """Stands in for the call of gRPC. Cancels the call when the reply is there, and is not taken down yet."""

    def __init__(self, call: Any) -> None:
        self._call, self._begun = call, call._begun

    def result(self) -> Any:
        return self._begun.result()

    def cancel(self) -> None:
        self._begun.cancel()

    def trailing_metadata(self) -> Any:
        assert self._call.cancel()
        return self._begun.trailing_metadata()


def test_a_write_that_is_cancelled_when_its_reply_is_there_is_not_committed(suite: Fakes, client: Suite) -> None:
    with pytest.raises(Cancelled), client.transaction() as tx:  # noqa: PT012
        call: Any = tx.users.UpdateUser.future(ADA)
        call._begun = CancelledLate(call)
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
        assert call.cancelled()
    assert suite.coordinator.decisions == {tx.id: None}


def test_the_last_of_many_calls_can_be_asked_for_first(suite: Fakes, client: Suite) -> None:
    with client.transaction() as tx:
        calls = [tx.users.UpdateUser.future(ADA) for _ in range(sys.getrecursionlimit())]
        assert calls[-1].result().user.user_id == "ada"
        assert all(call.done() for call in calls)
    assert suite.coordinator.decisions == {tx.id: {"users": len(calls)}}


def test_each_of_many_calls_takes_as_much_work_as_each_of_few(face: Face, suite: Fakes) -> None:
    async def steps(client: Any, calls: int) -> int:
        """How many functions are called for so many calls of a transaction, in this thread."""
        counted = itertools.count()
        async with client.transaction() as tx:
            sys.setprofile(lambda frame, event, argument: next(counted))
            begun = [tx.users.UpdateUser(ADA) for _ in range(calls)]
            for call in begun:
                await call
            sys.setprofile(None)
        return next(counted)

    async def scenario(client: Any) -> None:
        await steps(client, 10)  # imports, and connects
        few, many = await steps(client, 50), await steps(client, 500)
        assert many < 15 * few

    face.run(scenario, **suite.addresses())


def test_a_write_that_was_sent_and_is_cancelled_leaves_nothing_but_to_roll_back(suite: Fakes, client: Suite) -> None:
    released, arrived = threading.Event(), threading.Event()

    def hang(method: str, context: grpc.ServicerContext) -> None:
        arrived.set()
        wait(released)

    suite.users.before = hang
    with pytest.raises(grpc.RpcError), client.transaction() as tx:  # noqa: PT012
        call = tx.users.UpdateUser.future(ADA)
        arrived.wait(20)
        assert call.cancel()
    released.set()
    assert suite.coordinator.decisions == {tx.id: None}


class Seen(grpc.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[str] = []

    def intercept_unary_unary(self, continuation, details, request):  # type: ignore[no-untyped-def]
        self.methods.append(str(details.method).rpartition("/")[2])
        return continuation(details, request)


def test_interceptors_see_the_calls_of_a_transaction(suite: Fakes) -> None:
    seen = Seen()
    with connect(**suite.addresses(), interceptors=[seen]) as client, client.transaction() as tx:
        tx.users.UpdateUser.future(ADA)
        tx.preferences.UpdatePreferences(ADAS)
    assert suite.coordinator.decisions == {tx.id: {"users": 1, "preferences": 1}}
    assert seen.methods == ["BeginTransaction", "UpdateUser", "UpdatePreferences", "CommitTransaction"]


def test_credentials_and_the_like_go_on_to_grpc(suite: Fakes, client: Suite) -> None:
    with client.transaction() as tx:
        tx.users.UpdateUser(ADA, wait_for_ready=True, compression=grpc.Compression.Gzip)
    assert suite.coordinator.decisions == {tx.id: {"users": 1}}


def test_an_asyncio_call_tells_all_that_grpc_does(suite: Fakes) -> None:
    async def calls() -> None:
        async with aio.connect(**suite.addresses()) as client, client.transaction() as tx:
            call = tx.users.UpdateUser(ADA, wait_for_ready=True)
            ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            call.add_done_callback(ended.set_result)
            assert not call.done()
            assert await call.code() is grpc.StatusCode.OK
            assert await ended is call
            assert await call.details() == ""
            assert ("handfast-staged", "users") in tuple(await call.trailing_metadata())
            await call.initial_metadata()
            await call.wait_for_connection()
            assert call.done()
            assert not call.cancelled()
            assert not call.cancel()
            first, second, third = tx.users.UpdateUser(ADA), tx.users.GetUser(GET), tx.users.UpdateUser(BOB)
            assert second.cancel()
            await third
            assert await second.code() is grpc.StatusCode.CANCELLED
            assert first.done()
        assert suite.coordinator.decisions == {tx.id: {"users": 3}}

    asyncio.run(calls())
