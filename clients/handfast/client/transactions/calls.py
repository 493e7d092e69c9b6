"""The calls of a synchronous transaction: what `tx.users.GetUser` is, and what all of them share."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import grpc

from handfast.client.begun_call import begin
from handfast.client.methods import name_of
from handfast.client.propagation import propagating
from handfast.client.transactions.call import TransactionCall
from handfast.client.transactions.ending import lock_request
from handfast.client.transactions.errors import given_up
from handfast.client.transactions.journal import Journal
from handfast.client.transactions.methods import no_part
from handfast.client.transactions.queue import Queue
from handfast.client.transactions.services import Services

Stub = TypeVar("Stub")


class Calls:
    """Of one transaction."""

    def __init__(self, services: Services[grpc.Channel], coordinator: Any, journal: Journal) -> None:
        self.services, self._coordinator, self.journal = services, coordinator, journal
        self.lock = threading.RLock()
        """Held while something is taken down, and never while a call is waited for, but for the one that begins the
        transaction."""
        self._queues: defaultdict[str, Queue[TransactionCall]] = defaultdict(Queue)

    def stub(self, stub_class: Callable[[grpc.Channel], Stub], participant: str) -> Stub:
        return stub_class(TransactionChannel(self, participant))

    def begin(self, call: TransactionCall) -> None:
        """Sends it when its turn comes."""
        with self.lock:
            self.journal.check_open()
            self._lock_first(call)
            self._queues[call.participant].put(call)
            try:
                self.send_waiting(call.participant)
            except BaseException:  # such as KeyboardInterrupt
                call.cancel()
                raise

    def _lock_first(self, call: TransactionCall) -> None:
        """Has that locked first which earlier attempts were aborted for, in the time that the call has: it waits for
        it, as calls that are made later do, and is not sent where it fails. With the lock held."""
        request = self.journal.to_lock_first(call.participant)
        if request is not None:
            from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub

            stub = self.stub(LockServiceStub, call.participant)
            stub.LockResources.future(request, timeout=call.time_remaining())

    def send_waiting(self, participant: str) -> None:
        """Sends those whose turn has come. With the lock held."""
        while (call := self._queues[participant].next()) is not None:
            call.go_out()

    def under_way_before(self, call: TransactionCall) -> TransactionCall | None:
        """What has to be over before this is sent, and is not yet."""
        with self.lock:
            return None if call.is_over or call.is_under_way else self._queues[call.participant].first()

    def over(self, call: TransactionCall) -> None:
        """With the lock held."""
        self._queues[call.participant].over(call)

    def lock_reads_at_once(self, participant: str) -> None:
        """What has been read there, for as long as the transaction lasts, where it is to be locked at once."""
        from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub

        with self.lock:
            reads = self.journal.to_lock_at_once(participant)
        if reads:
            self.stub(LockServiceStub, participant).LockReads(lock_request(reads))
            with self.lock:
                self.journal.state.locked(participant, reads)

    def take_all(self) -> None:
        """Waits until all are over. Does not raise what they ended with."""
        for call in self._not_over():
            call.take()

    def cancel_all(self) -> None:
        if not self.journal.id:
            return  # what is about to begin it, in another thread, finds that it is lost, and need not be waited for
        for call in reversed(self._not_over()):  # so that none goes out for the end of another
            call.cancel()

    def _not_over(self) -> list[TransactionCall]:
        with self.lock:
            return [call for queue in self._queues.values() for call in queue.not_over()]

    def begin_transaction(self) -> None:
        """Unless it has begun. With the lock held."""
        if self.journal.id:
            return
        ids = self.services.ids
        minted = ids.take()
        if minted is None:
            asked_at_s = time.monotonic()
            with propagating(self.journal.inherited()):
                response = self._coordinator.BeginTransaction(ids.request())
            minted = ids.add(response, asked_at_s)
        self.journal.begin(minted)


class TransactionMethod(grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]  # generic in its stubs only
    """`inner` is what the method is outside of the transaction."""

    def __init__(self, calls: Calls, participant: str, path: str, inner: Any) -> None:
        self._calls, self._participant, self._path, self._inner = calls, participant, path, inner

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.with_call(*arguments, **named)[0]

    def with_call(self, *arguments: Any, **named: Any) -> tuple[Any, TransactionCall]:
        call = self.future(*arguments, **named)
        try:
            return call.result(), call
        except grpc.FutureCancelledError:
            error = given_up(self._calls.services.is_closed)
            raise self._calls.journal.told(error) from None

    def future(  # type: ignore[override]  # returns what is as good
        self, request: Any = None, timeout: float | None = None, metadata: Any = None, *more: Any, **named: Any
    ) -> TransactionCall:
        inner, calls = self._inner, self._calls
        part, given, deadline_s = calls.journal.check_call(self._path, request, timeout, metadata)

        def send(added: tuple[tuple[str, str | bytes], ...]) -> Any:
            if more or named:  # such as credentials, which only gRPC itself takes
                return inner.future(request, timeout, given + added, *more, **named)
            return begin(inner, request, timeout=timeout, metadata=given + added)

        call = TransactionCall(calls, part, self._participant, name_of(self._path), send, deadline_s)
        calls.begin(call)
        return call


class Refused:
    """A method that cannot take part, since it is a stream."""

    def __init__(self, journal: Journal, path: str) -> None:
        self._journal, self._path = journal, path

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise self._journal.mistaken(self._path, no_part(self._path))

    with_call = future = __call__


class TransactionChannel(grpc.Channel):
    """What the stubs of a transaction are made on."""

    def __init__(self, calls: Calls, participant: str) -> None:
        self._calls, self._participant = calls, participant

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        inner = self._calls.services.method(self._participant, method, *arguments, **named)
        return TransactionMethod(self._calls, self._participant, method, inner)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        return Refused(self._calls.journal, method)

    stream_unary = stream_stream = unary_stream

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        self._calls.services.channel(self._participant).subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        self._calls.services.channel(self._participant).unsubscribe(callback)

    def close(self) -> None:
        """Leaves the suite's channel as it is."""

    def __enter__(self) -> TransactionChannel:
        return self

    def __exit__(self, *_: object) -> None:
        pass
