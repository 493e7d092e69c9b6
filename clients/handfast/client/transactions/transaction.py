"""A transaction over several services, for synchronous callers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from handfast.client.begun_call import begin
from handfast.client.propagation import propagating
from handfast.client.transactions.calls import TransactionCall, TransactionChannel
from handfast.client.transactions.ending import Ask, Ending, commit, lock_request, roll_back
from handfast.client.transactions.errors import TransactionMisuse
from handfast.client.transactions.journal import Answer, Journal, Outcome
from handfast.client.transactions.methods import Part
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
    ServiceError where that is not possible: then nothing of it is visible, unless it is OutcomeUnknown.

    Calls to different services can be under way at once (`.future`); those to one service go out in the order in which
    they were made. Usable from several threads. A write that fails leaves nothing but to roll back.
    """

    def __init__(self, services: Services[grpc.Channel], coordinator: Any, journal: Journal) -> None:
        self.services, self._coordinator, self.journal = services, coordinator, journal
        self.lock = threading.RLock()
        """Held while something is taken down, and never while a call is waited for, but for the one that begins the
        transaction."""
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
    def users(self) -> UserServiceStub:
        from handfast.users.v1.users_pb2_grpc import UserServiceStub

        return UserServiceStub(TransactionChannel(self, "users"))

    @cached_property
    def preferences(self) -> PreferencesServiceStub:
        from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceStub

        return PreferencesServiceStub(TransactionChannel(self, "preferences"))

    def stub(self, stub_class: Callable[[grpc.Channel], Stub], participant: str) -> Stub:
        """A stub of another service that takes part, under the name that the coordinator knows it by. Raises ValueError
        where it is not known where that is."""
        self.services.channel(participant)
        return stub_class(TransactionChannel(self, participant))

    def rollback(self) -> None:
        """Ends the transaction without a trace. Its block goes on, and can be left as always."""
        if not self.journal.is_open:
            raise TransactionMisuse("Only an open transaction can be rolled back.")
        self._roll_back(TransactionMisuse("The transaction was rolled back by its caller."))

    def __enter__(self) -> Transaction:
        self.journal.enter()
        return self

    def __exit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.outcome is not Outcome.UNDECIDED:
            return  # rolled back already
        if error is not None:
            self._roll_back(error)
            return
        self.journal.is_open = False
        try:
            for call in self._open_calls():
                call.take()
            self._run(commit(self.journal))
        except BaseException as interrupted:
            if self.outcome is Outcome.UNDECIDED:
                self._roll_back(interrupted)
            raise

    def begin_call(self, call: TransactionCall) -> None:
        """Sends it when its turn comes: a write after all that was called at the participant before, and a read after
        all writes."""
        with self.lock:
            self.journal.check_open()
            if not self.id:
                self._begin()
            calls = [each for each in self._calls.get(call.participant, ()) if not each.is_over]
            self._calls[call.participant] = [*calls, call]
            call.begin(after=[each for each in calls if Part.WRITE in (each.part, call.part)])

    def send_waiting(self, participant: str) -> None:
        """Sends those whose turn has come. With the lock held."""
        for call in self._calls[participant]:
            call.send_when_ready()

    def lock_reads(self, participant: str) -> None:
        """What has been read there, for as long as the transaction lasts."""
        from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub

        with self.lock:
            reads = self.journal.state.unsafe(participant)
        if reads:
            self.stub(LockServiceStub, participant).LockReads(lock_request(reads))
            with self.lock:
                self.journal.state.locked(participant, reads)

    def _begin(self) -> None:
        minted = self.services.ids.take()
        if minted is None:
            asked_at_s = time.monotonic()
            try:
                with propagating(self.journal.inherited()):
                    response = self._coordinator.BeginTransaction(self.services.ids.request())
            except grpc.RpcError as error:
                self.journal.told(error)
                raise
            minted = self.services.ids.add(response, asked_at_s)
        self.journal.begin(minted)

    def _open_calls(self) -> list[TransactionCall]:
        with self.lock:
            return [call for calls in self._calls.values() for call in calls]

    def _roll_back(self, why: BaseException) -> None:
        for call in self._open_calls():
            call.cancel()
        with contextlib.suppress(Exception):
            self._run(roll_back(self.journal, why))

    def _run(self, ending: Ending) -> None:
        with propagating(self.journal.inherited_at_the_end()):
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
            return [each if isinstance(each, Answer) else _answer(each) for each in begun]
        except BaseException:
            for each in begun:
                if not isinstance(each, Answer):
                    each.cancel()
            raise

    def _ask(self, ask: Ask) -> Any:
        """The call, or the answer where it cannot be begun."""
        stub = self._coordinator if ask.participant is None else self.services.lock_service(ask.participant)
        try:
            return begin(getattr(stub, ask.method), ask.request, timeout=ask.timeout, metadata=ask.metadata)
        except grpc.RpcError as error:
            return Answer(error=error)


def _answer(begun: Any) -> Answer:
    try:
        return Answer(begun.result(), trailers=begun.trailing_metadata() or ())
    except grpc.RpcError as error:
        return Answer(error=error)
