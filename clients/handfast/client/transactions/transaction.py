"""A transaction over several services, for synchronous callers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from handfast.client.begun_call import begin
from handfast.client.errors import Cancelled
from handfast.client.propagation import propagating
from handfast.client.transactions.calls import Calls
from handfast.client.transactions.ending import Ask, Ending, commit, roll_back
from handfast.client.transactions.errors import TransactionMisuse, suite_closed
from handfast.client.transactions.journal import Answer, Journal, Outcome
from handfast.client.transactions.services import Services

if TYPE_CHECKING:
    from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceStub
    from handfast.users.v1.users_pb2_grpc import UserServiceStub

Stub = TypeVar("Stub")


class Transaction:
    """What is called on its stubs takes effect together when its block is left, or not at all:

        with suite.transaction() as tx:
            user = tx.users.GetUser(GetUserRequest(user_id="ada")).user
            tx.preferences.UpdatePreferences(...)

    It is strictly serializable: all that it has read was so, and all that it wrote appeared, at one moment between its
    beginning and its end. Leaving the block by an exception rolls it back. Leaving it otherwise commits, and raises
    ServiceError where that is not possible: then nothing of it is visible, unless it is OutcomeUnknown. Ctrl-C that
    comes during the commit may come too late: `outcome` says what became of it, and a note of the exception does where
    it is or may be committed.

    Calls to different services can be under way at once (`.future`); those to one service go out in the order in which
    they were made. Usable from several threads. A write that fails leaves nothing but to roll back.
    """

    def __init__(self, services: Services[grpc.Channel], coordinator: Any, journal: Journal) -> None:
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
    def users(self) -> UserServiceStub:
        from handfast.users.v1.users_pb2_grpc import UserServiceStub

        return self._calls.stub(UserServiceStub, "users")

    @cached_property
    def preferences(self) -> PreferencesServiceStub:
        from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceStub

        return self._calls.stub(PreferencesServiceStub, "preferences")

    def stub(self, stub_class: Callable[[grpc.Channel], Stub], participant: str) -> Stub:
        """A stub of another service that takes part, under the name that the coordinator knows it by. Raises ValueError
        where it is not known where that is, and TransactionMisuse where the suite is closed."""
        self._services.channel(participant)
        return self._calls.stub(stub_class, participant)

    def rollback(self) -> None:
        """Ends the transaction without a trace. Its block goes on, and can be left as always."""
        if not self._services.take_open(self):
            raise TransactionMisuse("Only an open transaction can be rolled back.")
        self._roll_back(TransactionMisuse("The transaction was rolled back by its caller."))

    def end_with_suite(self, until_s: float) -> None:
        """Rolls it back, if it is open, since its suite is about to be closed. Takes no longer than `until_s`, in
        seconds of `time.monotonic()`."""
        if self._services.take_open(self):
            self._suite_is_closed = True
            self._roll_back(suite_closed(), until_s)

    def __enter__(self) -> Transaction:
        self._journal.enter()
        self._services.add_open(self)
        self._span = self._services.begin_span(self._journal)
        return self

    def __exit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._services.ending(self._span, self._journal, error):
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        if not self._services.take_open(self):  # rolled back already
            if self._suite_is_closed and error is None:
                self._journal.raise_cause()
            return
        if error is not None:
            self._roll_back(error)
            return
        self._journal.is_open = False
        try:
            self._calls.take_all()
            self._run(commit(self._journal))
        except BaseException as interrupted:
            if self.outcome is Outcome.UNDECIDED:
                self._roll_back(interrupted)
            self._journal.explain(interrupted)
            raise

    def _roll_back(self, why: BaseException, until_s: float | None = None) -> None:
        self._journal.doom(why)
        try:
            self._calls.cancel_all()
        finally:
            with contextlib.suppress(Exception):
                self._run(roll_back(self._journal, why, until_s))

    def _run(self, ending: Ending) -> None:
        with propagating(self._journal.inherited_at_the_end()):
            step: Callable[[], Sequence[Ask] | float] = partial(next, ending)
            while True:
                try:
                    action = step()
                except StopIteration:
                    return
                try:
                    step = partial(ending.send, self._do(action))
                except BaseException as error:
                    step = partial(ending.throw, error)

    def _do(self, action: Sequence[Ask] | float) -> list[Answer]:
        if isinstance(action, float):
            time.sleep(action)
            return []
        begun: list[Any] = []
        try:
            for ask in action:
                begun.append(self._ask(ask))
            return [self._answer(ask, each) for ask, each in zip(action, begun, strict=True)]
        except BaseException:
            for each in begun:
                if not isinstance(each, Answer):
                    each.cancel()
            raise

    def _ask(self, ask: Ask) -> Any:
        """The call, or the answer where it cannot be begun."""
        try:
            stub = self._coordinator if ask.participant is None else self._services.lock_service(ask.participant)
            return begin(getattr(stub, ask.method), ask.request, timeout=ask.timeout, metadata=ask.metadata)
        except ValueError:  # the channel is closed
            return Answer(error=suite_closed())
        except Exception as error:  # any, where an interceptor raised it
            return Answer(error=error)

    def _answer(self, ask: Ask, begun: Any) -> Answer:
        if isinstance(begun, Answer):
            return begun
        try:
            return Answer(begun.result(), trailers=begun.trailing_metadata() or ())
        except Cancelled as error:
            # The channel was closed meanwhile. What became of a call of the coordinator is not known.
            is_closed = self._services.is_closed and ask.participant is not None
            return Answer(error=suite_closed() if is_closed else error)
        except Exception as error:
            return Answer(error=error)
