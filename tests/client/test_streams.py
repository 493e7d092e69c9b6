"""Streams carry a request id and raise typed errors; they have a deadline only if they are given one."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from queue import Queue
from typing import Any

import grpc
import pytest

from handfast.client import Aborted, Cancelled, Internal, ServiceError, Unknown, aio, channel
from tests.eventually import PATIENCE, eventually

from .backend import WITHOUT_CONTRACT, Backend

COUNT, COLLECT, ECHO = (f"{WITHOUT_CONTRACT}/{name}" for name in ("Count", "Collect", "Echo"))


@pytest.fixture
def opened(backend: Backend) -> Iterator[Any]:
    with channel(backend.address, timeout=5) as opened:
        yield opened


def run(backend: Backend, calls: Callable[[Any], Awaitable[None]]) -> None:
    """Makes `calls` on an asyncio channel."""

    async def run() -> None:
        async with aio.channel(backend.address) as opened:
            await calls(opened)

    asyncio.run(run())


def test_streams_of_all_kinds_carry_a_request_id_and_no_deadline(backend: Backend, opened: Any) -> None:
    assert list(opened.unary_stream(COUNT)(b"")) == [b"1", b"2"]
    assert opened.stream_unary(COLLECT)(iter([b"a", b"b"])) == b"done"
    assert opened.stream_unary(COLLECT).future(iter([b"a"])).result() == b"done"
    assert list(opened.stream_stream(ECHO)(iter([b"x", b"y"]))) == [b"x", b"y"]
    assert None not in backend.metadata_values("x-request-id")
    assert all(received.time_remaining is None or received.time_remaining > 1e6 for received in backend.received)


def test_a_stream_has_the_deadline_that_it_is_given(backend: Backend, opened: Any) -> None:
    list(opened.unary_stream(COUNT)(b"", timeout=30))
    assert backend.received[0].time_remaining == pytest.approx(30, abs=9)


def test_a_stream_that_breaks_raises_a_typed_error_after_what_came_before(backend: Backend, opened: Any) -> None:
    backend.fail(10, grpc.StatusCode.ABORTED)
    responses = opened.unary_stream(COUNT)(b"")
    assert next(responses) == b"1"
    with pytest.raises(Aborted) as caught:
        next(responses)
    assert caught.value.request_id == backend.received[0].metadata["x-request-id"]
    with pytest.raises(Aborted):
        list(opened.stream_stream(ECHO)(iter([b"x"])))


def refused(wait: Callable[[], object]) -> ServiceError:
    """What `wait` raises before long: in another thread, so that one that waits without end fails the test alone."""
    raised: Queue[ServiceError] = Queue()

    def run() -> None:
        try:
            wait()
        except ServiceError as error:
            raised.put(error)

    threading.Thread(target=run, daemon=True).start()
    return raised.get(timeout=PATIENCE)


@pytest.mark.parametrize("waits", [True, False], ids=["while it is waited for", "before it is waited for"])
def test_a_stream_that_its_caller_cancels_ends_at_once(backend: Backend, opened: Any, waits: bool) -> None:
    open_end = threading.Event()
    responses = opened.stream_stream(ECHO)(iter(open_end.wait, True))
    assert eventually(lambda: backend.received)
    if waits:
        threading.Timer(0.1, responses.cancel).start()
    else:
        responses.cancel()
    assert isinstance(refused(partial(next, responses)), Cancelled)
    open_end.set()


def test_a_stream_whose_requests_cannot_be_made_ends_at_once(opened: Any) -> None:
    responses = opened.stream_stream(ECHO)(map(int, ["no number"]))
    assert isinstance(refused(partial(next, responses)), Unknown)


def test_a_call_whose_reply_cannot_be_read_ends_at_once(opened: Any) -> None:
    responses = opened.unary_stream(COUNT, response_deserializer=lambda _: 1 / 0)(b"")
    assert isinstance(refused(partial(next, responses)), Internal)
    future = opened.stream_unary(COLLECT, response_deserializer=lambda _: 1 / 0).future(iter([b"a"]))
    assert isinstance(refused(future.result), Internal)


def test_asyncio_streams_of_all_kinds_work(backend: Backend) -> None:
    async def calls(opened: Any) -> None:
        assert [response async for response in opened.unary_stream(COUNT)(b"")] == [b"1", b"2"]
        collect = opened.stream_unary(COLLECT)()
        await collect.write(b"a")
        await collect.done_writing()
        assert await collect == b"done"
        echo = opened.stream_stream(ECHO)()
        await echo.write(b"x")
        assert await echo.read() == b"x"
        await echo.done_writing()
        assert await echo.read() is grpc.aio.EOF
        assert await echo.code() is grpc.StatusCode.OK

    run(backend, calls)
    assert None not in backend.metadata_values("x-request-id")


def test_an_asyncio_stream_that_breaks_raises_a_typed_error(backend: Backend) -> None:
    backend.fail(10, grpc.StatusCode.ABORTED)

    async def calls(opened: Any) -> None:
        with pytest.raises(Aborted):
            [response async for response in opened.unary_stream(COUNT)(b"")]
        stream = opened.unary_stream(COUNT)(b"")
        assert await stream.read() == b"1"
        with pytest.raises(Aborted):
            await stream.read()

    run(backend, calls)


def hold_streams(backend: Backend) -> threading.Event:
    """Each has a first reply, and then goes on until its caller ends it, which sets the event."""
    ended = threading.Event()

    def behave(context: grpc.ServicerContext, attempt: int) -> None:
        is_over = threading.Event()
        context.add_callback(is_over.set)
        if is_over.wait(2 * PATIENCE):
            ended.set()

    backend.behave = behave
    return ended


dropped_streams = pytest.mark.parametrize(
    "options", [{}, {"token": "abc"}, {"tracing": True}], ids=["plain", "token", "traced"]
)


@dropped_streams
def test_a_stream_that_its_caller_drops_is_cancelled(backend: Backend, options: dict[str, Any]) -> None:
    ended = hold_streams(backend)
    with channel(backend.address, **options) as opened:
        stub: Any = opened
        stream = stub.unary_stream(COUNT)(b"")
        assert next(stream) == b"1"
        assert eventually(lambda: backend.received)
        del stream
        gc.collect()
        assert ended.wait(PATIENCE)


@dropped_streams
def test_an_asyncio_stream_that_its_caller_drops_is_cancelled(backend: Backend, options: dict[str, Any]) -> None:
    ended = hold_streams(backend)

    async def run() -> None:
        async with aio.channel(backend.address, **options) as opened:
            stub: Any = opened
            stream = stub.unary_stream(COUNT)(b"")
            assert await stream.read() == b"1"
            assert await asyncio.to_thread(eventually, lambda: backend.received)
            del stream
            gc.collect()
            assert await asyncio.to_thread(ended.wait, PATIENCE)

    asyncio.run(run())
