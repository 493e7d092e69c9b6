"""A transaction over several services, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from grpc import aio

from handfast.client.aio.transaction_calls import Calls, is_cancelled, retrieve
from handfast.client.propagation import propagating
from handfast.client.transactions.ending import Ask, Ending, commit, roll_back
from handfast.client.transactions.errors import TransactionMisuse, cancelled, suite_closed
from handfast.client.transactions.journal import Answer, Journal, Outcome
from handfast.client.transactions.services import Services

if TYPE_CHECKING:
    from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceAsyncStub
    from handfast.users.v1.users_pb2_grpc import UserServiceAsyncStub

Stub = TypeVar("Stub")


class Transaction:
    """As `handfast.client.Transaction`, to be entered by `async with`. Calls are under way as soon as they are made, so
    those to different services can be awaited together (`asyncio.gather`).

    Where its task is cancelled, or its coroutine or generator is closed, it is rolled back, in the background where
    nothing can be awaited any more; `Suite.close` waits for that. As with Ctrl-C, that may be too late during the
    commit.
    """

    def __init__(self, services: Services[aio.Channel], coordinator: Any, journal: Journal) -> None:
        self._services, self._coordinator, self._journal = services, coordinator, journal
        self._calls = Calls(services, coordinator, journal)
        self._suite_is_closed = False

    @property
    def id(self) -> str:
        """The transaction's id, which logs and TransactionService know it by. Empty before its first call."""
        return self._journal.id

    @property
    def outcome(self) -> Outcome:
        return self._journal.outcome

    @cached_property
    def users(self) -> UserServiceAsyncStub:
        from handfast.users.v1.users_pb2_grpc import UserServiceStub

        return self._calls.stub(UserServiceStub, "users")

    @cached_property
    def preferences(self) -> PreferencesServiceAsyncStub:
        from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceStub

        return self._calls.stub(PreferencesServiceStub, "preferences")

    def stub(self, stub_class: Callable[[aio.Channel], Stub], participant: str) -> Stub:
        """As `handfast.client.Transaction.stub`."""
        self._services.channel(participant)
        return self._calls.stub(stub_class, participant)

    async def rollback(self) -> None:
        """Ends the transaction without a trace. Its block goes on, and can be left as always."""
        if not self._services.take_open(self):
            raise TransactionMisuse("Only an open transaction can be rolled back.")
        await self._roll_back(TransactionMisuse("The transaction was rolled back by its caller."))

    async def end_with_suite(self) -> None:
        """As `handfast.client.Transaction.end_with_suite`, within ROLL_BACK_SECONDS."""
        if self._services.take_open(self):
            self._suite_is_closed = True
            await self._roll_back(suite_closed())

    async def __aenter__(self) -> Transaction:
        self._journal.enter()
        self._services.add_open(self)
        self._span = self._services.begin_span(self._journal)
        return self

    async def __aexit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._services.ending(self._span, self._journal, error):
            await self._leave(error)

    async def _leave(self, error: BaseException | None) -> None:
        if not self._services.take_open(self):  # rolled back already
            if self._suite_is_closed and error is None:
                self._journal.raise_cause()
            return
        if error is not None:
            await self._roll_back(error)
            return
        self._journal.is_open = False
        try:
            await self._calls.all_over()
        except BaseException as interrupted:
            await self._roll_back(interrupted)
            raise
        try:
            await self._run(commit(self._journal))
        except BaseException as interruption:
            self._journal.explain(interruption)
            raise

    async def _roll_back(self, why: BaseException) -> None:
        self._journal.doom(why)
        self._calls.cancel_all()
        rest = self._in_the_background(self._run(roll_back(self._journal, why)))
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
        self._services.background.add(task)
        task.add_done_callback(self._services.background.discard)
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
        try:
            stub = self._coordinator if ask.participant is None else self._services.lock_service(ask.participant)
            with propagating(self._journal.inherited_at_the_end()):
                call = getattr(stub, ask.method)(ask.request, timeout=ask.timeout, metadata=ask.metadata)
            return Answer(await call, trailers=await call.trailing_metadata() or ())
        except aio.UsageError:  # the channel is closed
            return Answer(error=suite_closed())
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            # The channel was closed meanwhile. What became of a call of the coordinator is not known.
            return Answer(error=cancelled() if ask.participant is None else suite_closed())
        except Exception as error:  # any, where an interceptor raised it
            return Answer(error=error)
