"""What `tx.users.GetUser` is in a transaction for asyncio, and what it gives back: calls as of any stub, of which those
to one service go out one after the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc import aio

from handfast.client.arguments import check_call_timeout
from handfast.client.errors import Cancelled, ServiceError, service_error
from handfast.client.propagation import propagating
from handfast.client.transactions.errors import code_of, details_of
from handfast.client.transactions.journal import Answer
from handfast.client.transactions.methods import Part, check_given, name_of, refuse

if TYPE_CHECKING:
    from handfast.client.aio.transaction import Transaction


class TransactionCall(aio.UnaryUnaryCall[Any, Any]):
    """What `tx.users.UpdateUser(...)` gives: a task that sends the call when its turn comes."""

    def __init__(
        self,
        transaction: Transaction,
        part: Part,
        participant: str,
        method: str,
        send: Callable[[tuple[tuple[str, str | bytes], ...]], Any],
        deadline_s: float,
    ) -> None:
        self.part, self.participant, self._method = part, participant, method
        self._transaction, self._send, self._deadline_s = transaction, send, deadline_s
        self._call: Any = None

    def begin(self, after: Iterable[TransactionCall]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(tuple(after)))
        self._task.add_done_callback(retrieve)

    async def _run(self, after: Iterable[TransactionCall]) -> Any:
        journal = self._transaction.journal
        try:
            await self._send_after(after)
        except Exception as error:
            if self.part is Part.WRITE:
                journal.doom(error)  # perhaps nobody awaits it
            raise
        reply = None
        try:
            reply = await self._call
            answer = Answer(reply, None, await self._call.trailing_metadata())
        except grpc.RpcError as error:
            typed = error if isinstance(error, ServiceError) else service_error(error, "")
            answer = Answer(None, typed, typed.trailing_metadata())
        except asyncio.CancelledError:
            cancelled = Cancelled("The call was cancelled, as its caller or the transaction wanted it.")
            journal.answered(self.part, self.participant, self._method, Answer(None, cancelled))
            raise
        failure = journal.answered(self.part, self.participant, self._method, answer)
        if failure is not None:
            raise failure
        return reply

    async def _send_after(self, after: Iterable[TransactionCall]) -> None:
        journal = self._transaction.journal
        await self._transaction.begin()
        for each in after:
            await each.over()
        journal.check_not_lost()
        metadata = journal.metadata(self.part, self.participant)
        try:
            with propagating(journal.inherited()):
                self._call = self._send(metadata)
        except Exception:
            journal.not_sent(self.part, self.participant)
            raise

    async def over(self) -> None:
        """Waits until it is. Does not raise what it ended with."""
        if not self._task.done():
            await asyncio.wait((self._task,))

    def __await__(self) -> Generator[Any, None, Any]:
        transaction = self._transaction
        try:
            reply = yield from self._task.__await__()
            if self.part is Part.READ and transaction.journal.locks_at_once:
                yield from transaction.lock_reads(self.participant).__await__()
            return reply
        except Exception as error:
            transaction.journal.told(error)
            raise

    def cancelled(self) -> bool:
        return self._task.cancelled()

    def done(self) -> bool:
        return self._task.done()

    def time_remaining(self) -> float | None:
        return max(0.0, self._deadline_s - time.monotonic())

    def cancel(self) -> bool:
        """A write that was sent is not taken back by that: the transaction can only be rolled back then."""
        return self._task.cancel()

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


def retrieve(task: asyncio.Task[Any]) -> None:
    """Of a task whose failure may be nobody's business, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()


class TransactionMethod(aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]  # generic in its stubs only
    """`inner` is what the method is outside of the transaction."""

    def __init__(self, transaction: Transaction, participant: str, path: str, inner: Any) -> None:
        self._transaction, self._participant, self._path, self._inner = transaction, participant, path, inner

    def __call__(self, request: Any, *, timeout: float | None = None, metadata: Any = None, **named: Any) -> Any:
        part, given = check_given(self._path, request, metadata)
        inner, transaction = self._inner, self._transaction

        def send(added: tuple[tuple[str, str | bytes], ...]) -> Any:
            return inner(request, timeout=timeout, metadata=given + added, **named)

        deadline_s = transaction.journal.deadline_s
        if timeout is not None:
            deadline_s = min(deadline_s, time.monotonic() + check_call_timeout(timeout))
        call = TransactionCall(transaction, part, self._participant, name_of(self._path), send, deadline_s)
        transaction.begin_call(call)
        return call


class TransactionChannel(aio.Channel):
    """What the stubs of a transaction are made on."""

    def __init__(self, transaction: Transaction, participant: str) -> None:
        self._transaction, self._participant = transaction, participant

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        inner = self._transaction.services.method(self._participant, method, *arguments, **named)
        return TransactionMethod(self._transaction, self._participant, method, inner)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        def refused(*_: Any, **__: Any) -> NoReturn:
            refuse(method)

        return refused

    stream_unary = stream_stream = unary_stream

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._transaction.services.channel(self._participant).get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._transaction.services.channel(self._participant).wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._transaction.services.channel(self._participant).channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Leaves the suite's channel as it is."""

    async def __aenter__(self) -> TransactionChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass
