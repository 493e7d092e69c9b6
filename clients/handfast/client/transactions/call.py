"""What a call in a synchronous transaction gives back: a future and a call as gRPC has them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc

from handfast.client.errors import ServiceError
from handfast.client.propagation import propagating
from handfast.client.transactions.errors import cancelled, code_of, details_of
from handfast.client.transactions.journal import Answer
from handfast.client.transactions.methods import Part

if TYPE_CHECKING:
    from handfast.client.transactions.calls import Calls


class TransactionCall(grpc.Call, grpc.Future):  # type: ignore[type-arg]  # generic in its stubs only
    """What `tx.users.UpdateUser.future(...)` gives. Whoever asks for its result takes the answer from gRPC, and before
    that the answers of the calls that it waits for. So it needs no thread, but where somebody asks without waiting.
    """

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
        self._taking = threading.Lock()
        self._over = threading.Event()
        self._has_thread = False
        self._cancelled = False
        self._begun: Any = None
        self._reply: Any = None
        self._error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    @property
    def is_under_way(self) -> bool:
        return self._begun is not None and not self.is_over

    def go_out(self) -> None:
        """Sends it. With the lock of the calls held."""
        journal = self._calls.journal
        try:
            self._calls.begin_transaction()
            journal.check_not_lost()
            with propagating(journal.inherited()):
                self._begun = self._send(journal.metadata(self.part, self.participant))
        except Exception as error:
            self._end(Answer(error=error))

    def take(self) -> None:
        """Waits until it is over. Does not raise what it ended with."""
        try:
            while (other := self._calls.under_way_before(self)) is not None:
                other.take()
            with self._taking:
                if not self.is_over:
                    answer = self._come_back()
                    with self._calls.lock:
                        self._end(answer)
                        self._calls.send_waiting(self.participant)
        except BaseException:  # such as KeyboardInterrupt
            self.cancel()
            raise

    def _come_back(self) -> Answer:
        begun = self._begun
        try:
            return Answer(begun.result(), None, begun.trailing_metadata() or ())
        except grpc.FutureCancelledError:
            return Answer(error=cancelled())
        except Exception as error:
            return Answer.failed(error)

    def _end(self, answer: Answer) -> None:
        """The first end counts. With the lock of the calls held."""
        if not self.is_over:
            self._reply = answer.reply
            self._error = self._calls.journal.answered(self.part, self.participant, self._method, answer)
            self._over.set()
            self._calls.over(self)

    def _wait(self, timeout: float | None) -> None:
        if timeout is None:
            self.take()
        elif not self.done() and not self._over.wait(timeout):
            raise grpc.FutureTimeoutError
        if self._cancelled:
            raise grpc.FutureCancelledError

    # As grpc.Future

    def result(self, timeout: float | None = None) -> Any:
        """Waits `timeout` seconds, or as long as the call takes, for the response.

        Raises ServiceError, grpc.FutureTimeoutError, and after `cancel()` grpc.FutureCancelledError.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._reply

    def exception(self, timeout: float | None = None) -> Any:
        self._wait(timeout)
        if self.part is Part.READ:
            self._calls.lock_reads_at_once(self.participant)
        return None if self._error is None else self._calls.journal.told(self._error)

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        error = self.exception(timeout)
        return error.traceback() if isinstance(error, ServiceError) else None

    def cancel(self) -> bool:
        """After a write is cancelled, sent or not, the transaction can only be rolled back."""
        with self._calls.lock:
            if self.is_over:
                return False
            self._cancelled = True
            if self._begun is not None:
                self._begun.cancel()
            self._end(Answer(error=cancelled()))
            self._calls.send_waiting(self.participant)
            return True

    def cancelled(self) -> bool:
        return self._cancelled

    def running(self) -> bool:
        return not self.done()

    def done(self) -> bool:
        if not self._over.is_set() and not self._has_thread:
            self._has_thread = True
            self._in_a_thread(lambda _: None)
        return self._over.is_set()

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if self._over.is_set():
            fn(self)
        else:
            self._in_a_thread(fn)

    def _in_a_thread(self, then: Callable[[Any], None]) -> None:
        def take() -> None:
            self.take()
            then(self)

        threading.Thread(target=take, name="handfast-transaction-call", daemon=True).start()

    # As grpc.Call. What it asks is known when the call is over.

    def code(self) -> grpc.StatusCode:
        self.take()
        if self._cancelled:
            return grpc.StatusCode.CANCELLED
        return code_of(self._error)

    def details(self) -> str:
        self.take()
        return details_of(self._error)

    def initial_metadata(self) -> Any:
        self.take()
        return () if self._begun is None else self._begun.initial_metadata() or ()

    def trailing_metadata(self) -> Any:
        self.take()
        return () if self._begun is None else self._begun.trailing_metadata() or ()

    def is_active(self) -> bool:
        return not self.done()

    def time_remaining(self) -> float:
        return max(0.0, self._deadline_s - time.monotonic())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self._over.is_set():
            return False
        self.add_done_callback(lambda _: callback())
        return True
