"""What calls do while a token is asked for, and where none can be had."""

from __future__ import annotations

import asyncio
import functools
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from handfast.client import Cancelled, DeadlineExceeded, Unauthenticated, aio, channel, connect
from handfast.client.begun_call import begin
from handfast.users.v1.users_pb2 import GetUserRequest
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.eventually import PATIENCE, eventually

from .backend import WITHOUT_CONTRACT, Backend
from .caller import Opener

ADA = GetUserRequest(user_id="ada")
SOON = 0.05
"""Seconds after which a call is given up that could not succeed."""


class Slow:
    """A function that has not returned before it is let go."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.asked.set()
        assert self.go.wait(PATIENCE)
        return "abc"


def threads() -> list[str]:
    """Those that a token is asked for or waited for in."""
    return [each.name for each in threading.enumerate() if each.name in ("handfast-token", "handfast-call")]


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.go.set()
    assert eventually(lambda: not threads())


def carried(backend: Backend) -> list[Any]:
    return [call.metadata.get("authorization") for call in backend.received]


def test_no_call_waits_longer_for_its_token_than_it_may_take(backend: Backend, caller: Opener, slow: Slow) -> None:
    with pytest.raises(DeadlineExceeded) as late:
        caller(backend.address, token=slow)("GetUser", ADA, timeout=SOON)
    assert late.value.message == "token: its function has not returned in the time of the call"
    assert backend.received == []


def test_a_future_does_not_wait_for_the_token_before_it_is_asked(backend: Backend, slow: Slow) -> None:
    told = threading.Event()
    with channel(backend.address, token=slow) as opened:
        pending = UserServiceStub(opened).GetUser.future(ADA)
        pending.add_done_callback(lambda ended: told.set() if ended.done() else None)
        assert slow.asked.wait(PATIENCE)
        assert (pending.done(), pending.running(), pending.is_active(), pending.cancelled()) == (
            False,
            True,
            True,
            False,
        )
        assert 0 < pending.time_remaining() <= 10
        with pytest.raises(grpc.FutureTimeoutError):
            pending.result(timeout=SOON)
        slow.go.set()
        assert pending.result(timeout=PATIENCE).user.user_id == "ada"
        assert told.wait(PATIENCE)
        assert pending.done()
    assert carried(backend) == ["Bearer abc"]


def test_futures_that_wait_for_a_token_all_go_out_with_it(backend: Backend, slow: Slow) -> None:
    with channel(backend.address, token=slow) as opened:
        get = UserServiceStub(opened).GetUser
        pending = [get.future(ADA, timeout=PATIENCE) for _ in range(50)]
        slow.go.set()
        assert {each.result().user.user_id for each in pending} == {"ada"}
    assert carried(backend) == ["Bearer abc"] * 50


def test_a_begun_call_goes_out_when_its_token_is_there(backend: Backend, slow: Slow) -> None:
    with channel(backend.address, token=slow) as opened:
        pending = begin(UserServiceStub(opened).GetUser, ADA)
        slow.go.set()
        assert eventually(lambda: carried(backend) == ["Bearer abc"])
        assert pending.result().user.user_id == "ada"
    assert len(backend.received) == 1


def test_a_stream_waits_for_its_token_where_it_is_read(backend: Backend, slow: Slow) -> None:
    with channel(backend.address, token=slow) as opened:
        count: Any = opened.unary_stream(f"{WITHOUT_CONTRACT}/Count")
        echo: Any = opened.stream_stream(f"{WITHOUT_CONTRACT}/Echo")
        numbers, echoes = count(b""), echo(iter([b"a", b"b"]))
        assert slow.asked.wait(PATIENCE)
        slow.go.set()
        assert list(numbers) == [b"1", b"2"]
        assert list(echoes) == [b"a", b"b"]
        assert numbers.code() is grpc.StatusCode.OK
    assert carried(backend) == ["Bearer abc"] * 2


def test_streams_of_asyncio_wait_for_their_token_too(backend: Backend, slow: Slow) -> None:
    async def call() -> None:
        async with aio.channel(backend.address, token=slow) as opened:
            count: Any = opened.unary_stream(f"{WITHOUT_CONTRACT}/Count")
            echo: Any = opened.stream_stream(f"{WITHOUT_CONTRACT}/Echo")
            collect: Any = opened.stream_unary(f"{WITHOUT_CONTRACT}/Collect")
            numbers, echoes, collected = count(b""), echo(), collect()
            assert not numbers.done()
            slow.go.set()
            assert [number async for number in numbers] == [b"1", b"2"]
            await echoes.write(b"a")
            await echoes.done_writing()
            assert await echoes.read() == b"a"
            assert await echoes.read() is grpc.aio.EOF
            await collected.write(b"a")
            await collected.done_writing()
            assert await collected == b"done"
            assert await numbers.code() is grpc.StatusCode.OK

    asyncio.run(call())
    assert carried(backend) == ["Bearer abc"] * 3


@pytest.mark.parametrize("how", ["future", "begin"])
def test_a_call_that_waits_for_its_token_can_be_cancelled(backend: Backend, slow: Slow, how: str) -> None:
    with channel(backend.address, token=slow) as opened:
        pending = getattr(UserServiceStub(opened).GetUser, how)(ADA)
        ended: list[type[BaseException]] = []

        def wait() -> None:
            try:
                pending.result()
            except BaseException as error:
                ended.append(type(error))

        waits = threading.Thread(target=wait)
        waits.start()
        assert slow.asked.wait(PATIENCE)
        pending.cancel()
        waits.join(PATIENCE)
        assert ended == [grpc.FutureCancelledError]
        if how == "future":
            assert (pending.cancelled(), pending.done(), pending.code()) == (True, True, grpc.StatusCode.CANCELLED)
    assert backend.received == []


def test_an_asyncio_call_that_waits_for_its_token_can_be_cancelled(backend: Backend, slow: Slow) -> None:
    async def call() -> None:
        async with aio.channel(backend.address, token=slow) as opened:
            users: Any = UserServiceStub(opened)
            pending = users.GetUser(ADA)
            assert pending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pending
            assert (pending.cancelled(), pending.done(), await pending.code()) == (
                True,
                True,
                grpc.StatusCode.CANCELLED,
            )

            async def wait() -> Any:
                return await users.GetUser(ADA)

            waiting, other = asyncio.ensure_future(wait()), users.GetUser(ADA)
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            slow.go.set()
            assert (await other).user.user_id == "ada"

    asyncio.run(call())
    assert carried(backend) == ["Bearer abc"]


@pytest.mark.parametrize("how", ["__call__", "future", "begin", "stream"])
def test_who_waits_for_a_token_is_let_go_when_the_channel_is_closed(backend: Backend, slow: Slow, how: str) -> None:
    opened = channel(backend.address, token=slow)
    users, ended = UserServiceStub(opened), threading.Event()
    count: Any = opened.unary_stream(f"{WITHOUT_CONTRACT}/Count")
    error: list[BaseException] = []

    def call() -> None:
        try:
            match how:
                case "__call__":
                    users.GetUser(ADA)
                case "stream":
                    list(count(b""))
                case _:
                    getattr(users.GetUser, how)(ADA).result()
        except BaseException as raised:
            error.append(raised)
        ended.set()

    threading.Thread(target=call).start()
    assert slow.asked.wait(PATIENCE)
    opened.close()
    assert ended.wait(PATIENCE)
    assert [type(each) for each in error] == [Cancelled]
    with pytest.raises(ValueError, match=r"[Cc]losed"):
        users.GetUser(ADA)
    slow.go.set()
    assert eventually(lambda: not threads())
    assert backend.received == []


def test_asyncio_lets_go_of_who_waits_for_a_token_when_the_channel_is_closed(backend: Backend, slow: Slow) -> None:
    async def call() -> None:
        opened = aio.channel(backend.address, token=slow)
        users: Any = UserServiceStub(opened)
        pending = users.GetUser(ADA)
        await asyncio.sleep(0)
        await opened.close()
        with pytest.raises(asyncio.CancelledError):
            await pending
        with pytest.raises(grpc.aio.UsageError):
            await users.GetUser(ADA)

    asyncio.run(call())
    assert backend.received == []


def test_a_call_that_is_refused_stays_so_where_no_other_token_can_be_had(backend: Backend, caller: Opener) -> None:
    backend.fail(9, grpc.StatusCode.UNAUTHENTICATED)
    answers: Iterator[str] = iter(["abc"])
    with pytest.raises(Unauthenticated, match="on purpose"):
        caller(backend.address, token=lambda: next(answers))("GetUser", ADA)
    assert len(backend.received) == 1


async def asynchronous() -> str:
    await asyncio.sleep(0)
    return "abc"


class Asynchronous:
    async def __call__(self) -> str:
        return await asynchronous()


@pytest.mark.parametrize(
    "function",
    [asynchronous, functools.partial(asynchronous), Asynchronous(), lambda: asynchronous()],
    ids=["function", "partial", "object", "lambda"],
)
def test_asyncio_awaits_a_function_that_is_async(backend: Backend, function: Callable[..., Any]) -> None:
    async def call() -> None:
        async with aio.channel(backend.address, token=function) as opened:
            users: Any = UserServiceStub(opened)
            await asyncio.gather(*(users.GetUser(ADA) for _ in range(3)))

    asyncio.run(call())
    assert carried(backend) == ["Bearer abc"] * 3


def test_an_async_function_that_fails_fails_the_call(backend: Backend) -> None:
    async def fails() -> str:
        raise OSError

    async def call() -> None:
        async with aio.channel(backend.address, token=fails) as opened:
            users: Any = UserServiceStub(opened)
            with pytest.raises(Unauthenticated, match="token: its function raised OSError"):
                await users.GetUser(ADA)

    asyncio.run(call())


@pytest.mark.parametrize("open_channel", [connect, functools.partial(channel, "localhost:1")], ids=["suite", "channel"])
@pytest.mark.parametrize("function", [asynchronous, Asynchronous()], ids=["function", "object"])
def test_the_synchronous_client_refuses_an_async_function(
    open_channel: Callable[..., Any], function: Callable[..., Any]
) -> None:
    with pytest.raises(TypeError, match=r"^token: must be no async function; handfast.client.aio takes those$"):
        open_channel(token=function)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("given", "name"), [(None, "NoneType"), (b"abc", "bytes"), (asynchronous, "coroutine")], ids=["None", "bytes", "c"]
)
def test_what_is_no_str_is_named(backend: Backend, given: Any, name: str) -> None:
    with channel(backend.address, token=lambda: given() if callable(given) else given) as opened:
        with pytest.raises(Unauthenticated) as caught:
            UserServiceStub(opened).GetUser(ADA)
        gc.collect()  # whoever is not awaited would warn
    assert caught.value.message == f"token: its function must return a str, not {name}"


_CLOSES = """
import faulthandler, sys
import grpc
from handfast.client import connect
from handfast.users.v1.users_pb2 import GetUserRequest

def fails():
    raise OSError

for _ in range(40):
    faulthandler.dump_traceback_later(60, exit=True)
    with connect(*sys.argv[1:] * 3, token=fails, timeout=0.1) as suite:
        try:
            suite.users.GetUser(GetUserRequest(user_id="ada"))
        except grpc.RpcError:
            pass
"""


def test_closing_after_the_function_has_failed_does_not_freeze_the_process(backend: Backend) -> None:
    closes = [sys.executable, "-c", _CLOSES, backend.address]
    ended = subprocess.run(closes, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
