"""The calls of a transaction for asyncio: what `tx.users.GetUser` is, what it gives back, and what all calls share."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from typing import Any, NoReturn, TypeVar

import grpc
from grpc import aio

from handfast.client.errors import Cancelled
from handfast.client.methods import name_of
from handfast.client.propagation import propagating
from handfast.client.transactions.ending import lock_request
from handfast.client.transactions.errors import cancelled, code_of, details_of, given_up
from handfast.client.transactions.journal import Answer, Journal
from handfast.client.transactions.methods import Part, no_part
from handfast.client.transactions.queue import Queue
from handfast.client.transactions.services import Services

Stub = TypeVar("Stub")


class Calls:
    """Of one transaction."""

    def __init__(self, services: Services[aio.Channel], coordinator: Any, journal: Journal) -> None:
        self.services, self._coordinator, self.journal = services, coordinator, journal
        self._beginning = asyncio.Lock()
        self._queues: defaultdict[str, Queue[TransactionCall]] = defaultdict(Queue)

    def stub(self, stub_class: Callable[[aio.Channel], Stub], participant: str) -> Stub:
        return stub_class(TransactionChannel(self, participant))

    def begin(self, call: TransactionCall) -> None:
        """Has it sent when its turn comes."""
        self.journal.check_open()
        self._lock_first(call)
        self._queues[call.participant].put(call)
        call.begin()
        self._send_waiting(call.participant)

    def _lock_first(self, call: TransactionCall) -> None:
        """As `handfast.client.transactions.calls.Calls._lock_first`."""
        request = self.journal.to_lock_first(call.participant)
        if request is not None:
            from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub

            stub = self.stub(LockServiceStub, call.participant)
            stub.LockResources(request, timeout=call.time_remaining())

    def over(self, call: TransactionCall) -> None:
        self._queues[call.participant].over(call)
        self._send_waiting(call.participant)

    def _send_waiting(self, participant: str) -> None:
        """Has those sent whose turn has come."""
        while (call := self._queues[participant].next()) is not None:
            call.turn.set()

    async def lock_reads_at_once(self, participant: str) -> None:
        """As `handfast.client.transactions.calls.Calls.lock_reads_at_once`."""
        from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub

        reads = self.journal.to_lock_at_once(participant)
        if reads:
            await self.stub(LockServiceStub, participant).LockReads(lock_request(reads))
            self.journal.state.locked(participant, reads)

    async def all_over(self) -> None:
        """Waits until they are. Does not raise what they ended with."""
        for call in self._not_over():
            await call.over()

    def cancel_all(self) -> None:
        for call in self._not_over():
            call.give_up()

    def _not_over(self) -> list[TransactionCall]:
        return [call for queue in self._queues.values() for call in queue.not_over()]

    async def begin_transaction(self) -> None:
        """Unless it has begun."""
        async with self._beginning:
            if self.journal.id:
                return
            ids = self.services.ids
            minted = ids.take()
            if minted is None:
                asked_at_s = time.monotonic()
                with propagating(self.journal.inherited()):
                    call = self._coordinator.BeginTransaction(ids.request())
                minted = ids.add(await call, asked_at_s)
            self.journal.begin(minted)


class TransactionCall(aio.UnaryUnaryCall[Any, Any]):
    """What `tx.users.UpdateUser(...)` gives: a task that sends the call when its turn comes."""

    _channel = None  # early versions of grpcio look for it in each call whose task runs as a channel is closed

    def __init__(
        self,
        calls: Calls,
        part: Part,
        participant: str,
        method: str,
        send: Callable[[tuple[tuple[str, str | bytes], ...]], Any],
        deadline_s: float,
    ) -> None:
        self.part, self.participant, self._method = part, participant, method
        self._calls, self._send, self._deadline_s = calls, send, deadline_s
        self.turn = asyncio.Event()
        self._call: Any = None
        self._given_up: Cancelled | None = None
        """What it ended with, where the transaction did before."""

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._end)

    async def _run(self) -> Any:
        try:
            return await self._reply()
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise given_up(is_suite_closed=True) from None  # and its channel, which ends what is waited for

    async def _reply(self) -> Any:
        journal = self._calls.journal
        await self.turn.wait()
        await self._calls.begin_transaction()
        journal.check_not_lost()
        with propagating(journal.inherited()):
            self._call = self._send(journal.metadata(self.part, self.participant))
        try:
            reply = await self._call
            # None where an interceptor has given the reply in place of the call
            answer = Answer(reply, None, await self._call.trailing_metadata() or ())
        except Exception as error:
            answer = Answer.failed(error)
        failure = journal.answered(self.part, self.participant, self._method, answer)
        if failure is not None:
            raise failure
        return answer.reply

    def _end(self, task: asyncio.Task[Any]) -> None:
        """However it ended: also before it was sent."""
        error = (self._given_up or cancelled()) if task.cancelled() else task.exception()
        if error is not None and self.part is Part.WRITE:
            self._calls.journal.doom(error)
        self._calls.over(self)

    async def over(self) -> None:
        """Waits until it is, and has been taken down. Does not raise what it ended with."""
        await asyncio.wait((self._task,))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._shown().__await__()

    async def _shown(self) -> Any:
        try:
            try:
                reply = await self._task
            except asyncio.CancelledError:
                if self._given_up is None or is_cancelled():
                    raise
                raise self._given_up from None
            except Exception:  # such as NotFound, which is something that was read
                await self._lock_at_once()
                raise
            await self._lock_at_once()
            return reply
        except Exception as error:
            self._calls.journal.told(error)
            raise

    async def _lock_at_once(self) -> None:
        if self.part is Part.READ:
            await self._calls.lock_reads_at_once(self.participant)

    def cancelled(self) -> bool:
        return self._task.cancelled()

    def done(self) -> bool:
        return self._task.done()

    def time_remaining(self) -> float | None:
        return max(0.0, self._deadline_s - time.monotonic())

    def cancel(self) -> bool:
        """After a write is cancelled, sent or not, the transaction can only be rolled back."""
        return self._task.cancel()

    def give_up(self) -> None:
        """As `cancel`, for the end of the transaction: who waits for it is told so, and is not cancelled."""
        self._given_up = given_up(self._calls.services.is_closed)
        self._task.cancel()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._task.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> Any:
        await self.over()
        return aio.Metadata() if self._call is None else await self._call.initial_metadata()

    async def trailing_metadata(self) -> Any:
        await self.over()
        return aio.Metadata() if self._call is None else await self._call.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        await self.over()
        return grpc.StatusCode.CANCELLED if self._task.cancelled() else code_of(self._task.exception())

    async def details(self) -> str:
        await self.over()
        return "" if self._task.cancelled() else details_of(self._task.exception())

    async def debug_error_string(self) -> str | None:
        await self.over()
        return None if self._call is None else await self._call.debug_error_string()

    async def wait_for_connection(self) -> None:
        await self.over()


def is_cancelled() -> bool:
    """Whether the task that runs this is: else what it waits for was, such as a call whose channel was closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def retrieve(task: asyncio.Task[Any]) -> None:
    """Of a task whose failure may be nobody's business, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()


class TransactionMethod(aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]  # generic in its stubs only
    """`inner` is what the method is outside of the transaction."""

    def __init__(self, calls: Calls, participant: str, path: str, inner: Any) -> None:
        self._calls, self._participant, self._path, self._inner = calls, participant, path, inner

    def __call__(
        self, request: Any = None, timeout: float | None = None, metadata: Any = None, *more: Any, **named: Any
    ) -> Any:
        inner, calls = self._inner, self._calls
        part, given, deadline_s = calls.journal.check_call(self._path, request, timeout, metadata)

        def send(added: tuple[tuple[str, str | bytes], ...]) -> Any:
            return inner(request, timeout, given + added, *more, **named)

        call = TransactionCall(calls, part, self._participant, name_of(self._path), send, deadline_s)
        calls.begin(call)
        return call


class TransactionChannel(aio.Channel):
    """What the stubs of a transaction are made on."""

    def __init__(self, calls: Calls, participant: str) -> None:
        self._calls, self._participant = calls, participant

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        inner = self._calls.services.method(self._participant, method, *arguments, **named)
        return TransactionMethod(self._calls, self._participant, method, inner)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        def refused(*_: Any, **__: Any) -> NoReturn:
            raise self._calls.journal.mistaken(method, no_part(method))

        return refused

    stream_unary = stream_stream = unary_stream

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._calls.services.channel(self._participant).get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._calls.services.channel(self._participant).wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._calls.services.channel(self._participant).channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Leaves the suite's channel as it is."""

    async def __aenter__(self) -> TransactionChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass
