"""A transaction over several services, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc import aio

from handfast.client.aio.transaction_calls import TransactionCall, TransactionChannel, retrieve
from handfast.client.propagation import propagating
from handfast.client.transactions.ending import Ask, Ending, commit, lock_request, roll_back
from handfast.client.transactions.errors import TransactionMisuse
from handfast.client.transactions.journal import Answer, Journal, Outcome
from handfast.client.transactions.methods import Part
from handfast.client.transactions.services import Services

if TYPE_CHECKING:
    from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceAsyncStub
    from handfast.users.v1.users_pb2_grpc import UserServiceAsyncStub

Stub = TypeVar("Stub")


class Transaction:
    """As `handfast.client.Transaction`, to be entered by `async with`. Calls are under way as soon as they are made, so
    those to different services can be awaited together (`asyncio.gather`).

    Where its task is cancelled, or its coroutine or generator is closed, it is rolled back, in the background where
    nothing can be awaited any more; `Suite.close` waits for that.
    """

    def __init__(self, services: Services[aio.Channel], coordinator: Any, journal: Journal) -> None:
        self.services, self._coordinator, self.journal = services, coordinator, journal
        self._beginning = asyncio.Lock()
        self._calls: dict[str, list[TransactionCall]] = {}
        """For each participant those that are not over, in the order in which they were made."""

    @property
    def id(self) -> str:
        """The transaction's id, which logs and TransactionService know it by. Empty before its first call."""
        return self.journal.id

    @property
    def outcome(self) -> Outcome:
        return self.journal.outcome

    @cached_property
    def users(self) -> UserServiceAsyncStub:
        from handfast.users.v1.users_pb2_grpc import UserServiceStub

        return UserServiceStub(TransactionChannel(self, "users"))

    @cached_property
    def preferences(self) -> PreferencesServiceAsyncStub:
        from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceStub

        return PreferencesServiceStub(TransactionChannel(self, "preferences"))

    def stub(self, stub_class: Callable[[aio.Channel], Stub], participant: str) -> Stub:
        """As `handfast.client.Transaction.stub`."""
        self.services.channel(participant)
        return stub_class(TransactionChannel(self, participant))

    async def rollback(self) -> None:
        """Ends the transaction without a trace. Its block goes on, and can be left as always."""
        if not self.journal.is_open:
            raise TransactionMisuse("Only an open transaction can be rolled back.")
        await self._roll_back(TransactionMisuse("The transaction was rolled back by its caller."))

    async def __aenter__(self) -> Transaction:
        self.journal.enter()
        return self

    async def __aexit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.outcome is not Outcome.UNDECIDED:
            return  # rolled back already
        if error is not None:
            await self._roll_back(error)
            return
        self.journal.is_open = False
        try:
            for call in self._open_calls():
                await call.over()
        except BaseException as interrupted:
            await self._roll_back(interrupted)
            raise
        await self._run(commit(self.journal))

    def begin_call(self, call: TransactionCall) -> None:
        """Has it sent when its turn comes: a write after all that was called at the participant before, and a read
        after all writes."""
        self.journal.check_open()
        calls = [each for each in self._calls.get(call.participant, ()) if not each.done()]
        self._calls[call.participant] = [*calls, call]
        call.begin(after=[each for each in calls if Part.WRITE in (each.part, call.part)])

    async def lock_reads(self, participant: str) -> None:
        """What has been read there, for as long as the transaction lasts."""
        from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub

        reads = self.journal.state.unsafe(participant)
        if reads:
            await self.stub(LockServiceStub, participant).LockReads(lock_request(reads))
            self.journal.state.locked(participant, reads)

    async def begin(self) -> None:
        """Before the first call."""
        async with self._beginning:
            if self.id:
                return
            minted = self.services.ids.take()
            if minted is None:
                asked_at_s = time.monotonic()
                with propagating(self.journal.inherited()):
                    call = self._coordinator.BeginTransaction(self.services.ids.request())
                minted = self.services.ids.add(await call, asked_at_s)
            self.journal.begin(minted)

    def _open_calls(self) -> list[TransactionCall]:
        return [call for calls in self._calls.values() for call in calls]

    async def _roll_back(self, why: BaseException) -> None:
        for call in self._open_calls():
            call.cancel()
        rest = self._in_the_background(self._run(roll_back(self.journal, why)))
        if rest is not None and not isinstance(why, GeneratorExit):  # after which nothing can be awaited
            with contextlib.suppress(Exception):
                await asyncio.shield(rest)

    async def _run(self, ending: Ending, step: Callable[[], Sequence[Ask] | float] | None = None) -> None:
        """Takes one step after the other. Where that is interrupted, what is left is done in a task of its own."""
        step = step or partial(next, ending)
        while True:
            try:
                action = step()
            except StopIteration:
                return
            try:
                step = partial(ending.send, await self._do(action))
            except (asyncio.CancelledError, GeneratorExit) as interruption:
                rest = self._in_the_background(self._run(ending, partial(ending.throw, asyncio.CancelledError())))
                if rest is not None and not isinstance(interruption, GeneratorExit):
                    await asyncio.shield(rest)
                raise
            except BaseException as error:
                step = partial(ending.throw, error)

    def _in_the_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """None where there is no event loop any more."""
        try:
            task = asyncio.get_running_loop().create_task(work)
        except RuntimeError:
            work.close()
            return None
        self.services.background.add(task)
        task.add_done_callback(self.services.background.discard)
        task.add_done_callback(retrieve)
        return task

    async def _do(self, action: Sequence[Ask] | float) -> list[Answer]:
        if isinstance(action, float):
            await asyncio.sleep(action)
            return []
        if len(action) == 1:
            return [await self._ask(action[0])]
        tasks = [asyncio.ensure_future(self._ask(ask)) for ask in action]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            raise

    async def _ask(self, ask: Ask) -> Answer:
        stub = self._coordinator if ask.participant is None else self.services.lock_service(ask.participant)
        try:
            with propagating(self.journal.inherited_at_the_end()):
                call = getattr(stub, ask.method)(ask.request, timeout=ask.timeout, metadata=ask.metadata)
            return Answer(await call, trailers=await call.trailing_metadata())
        except grpc.RpcError as error:
            return Answer(error=error)
