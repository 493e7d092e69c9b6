"""What a call in a synchronous transaction gives back: a future and a call as gRPC has them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc

from handfast.client.errors import Cancelled, ServiceError, service_error
from handfast.client.propagation import propagating
from handfast.client.transactions.errors import code_of, details_of
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
        self._after: tuple[TransactionCall, ...] = ()
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

    def begin(self, after: Iterable[TransactionCall]) -> None:
        """Sends it, or leaves it to wait for those `after` which it comes. Raises what forbids to send it."""
        self._after = tuple(after)
        if not self._after:
            try:
                self._go_out()
            except Exception as error:
                self._calls.journal.told(error)
                raise

    def send_when_ready(self) -> None:
        """Sends it, if that is not done yet and all are over that it waits for. With the lock of the calls held."""
        if self._begun is None and not self.is_over and all(each.is_over for each in self._after):
            self._after = ()
            with contextlib.suppress(Exception):
                self._go_out()
            if self._error is not None and self.part is Part.WRITE:
                self._calls.journal.doom(self._error)  # perhaps nobody asks for its result

    def take(self) -> None:
        """Waits until it is over. Does not raise what it ended with."""
        for each in self._after:
            each.take()
        with self._taking:
            with self._calls.lock:
                self.send_when_ready()
            if not self.is_over:
                self._come_back()

    def _go_out(self) -> None:
        journal = self._calls.journal
        try:
            if self._cancelled:
                raise grpc.FutureCancelledError
            journal.check_not_lost()
            metadata = journal.metadata(self.part, self.participant)
            try:
                with propagating(journal.inherited()):
                    self._begun = self._send(metadata)
            except Exception:
                journal.not_sent(self.part, self.participant)
                raise
        except Exception as error:
            self._error = None if self._cancelled else error
            self._over.set()
            raise

    def _come_back(self) -> None:
        begun = self._begun
        try:
            self._reply = begun.result()
            answer = Answer(self._reply, None, begun.trailing_metadata() or ())
        except grpc.RpcError as error:
            typed = error if isinstance(error, ServiceError) else service_error(error, "")
            answer = Answer(None, typed, typed.trailing_metadata())
        except grpc.FutureCancelledError:
            answer = Answer(None, Cancelled("The call was cancelled, as its caller or the transaction wanted it."))
        except BaseException:  # such as KeyboardInterrupt
            self.cancel()
            self._end(Answer(None, Cancelled("The call was interrupted.")))
            raise
        self._end(answer)

    def _end(self, answer: Answer) -> None:
        with self._calls.lock:
            self._error = self._calls.journal.answered(self.part, self.participant, self._method, answer)
            self._over.set()
            self._calls.send_waiting(self.participant)

    def _wait(self, timeout: float | None) -> None:
        if timeout is None:
            self.take()
        elif not self.done() and not self._over.wait(timeout):
            raise grpc.FutureTimeoutError
        if self._cancelled:
            raise grpc.FutureCancelledError

    def _told(self) -> Any:
        return None if self._error is None else self._calls.journal.told(self._error)

    # As grpc.Future

    def result(self, timeout: float | None = None) -> Any:
        """Waits `timeout` seconds, or as long as the call takes, for the response.

        Raises ServiceError, grpc.FutureTimeoutError, and after `cancel()` grpc.FutureCancelledError.
        """
        self._wait(timeout)
        if self._error is not None:
            raise self._told()
        if self.part is Part.READ and self._calls.journal.locks_at_once:
            self._calls.lock_reads(self.participant)
        return self._reply

    def exception(self, timeout: float | None = None) -> Any:
        self._wait(timeout)
        return self._told()

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        error = self.exception(timeout)
        return error.traceback() if isinstance(error, ServiceError) else None

    def cancel(self) -> bool:
        """A write that was sent is not taken back by that: the transaction can only be rolled back then."""
        if self._over.is_set():
            return False
        self._cancelled = True
        if self._begun is not None:
            self._begun.cancel()
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
        return self._begun.initial_metadata() if self._begun is not None else ()

    def trailing_metadata(self) -> Any:
        self.take()
        return self._begun.trailing_metadata() if self._begun is not None else ()

    def is_active(self) -> bool:
        return not self.done()

    def time_remaining(self) -> float:
        return max(0.0, self._deadline_s - time.monotonic())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self._over.is_set():
            return False
        self.add_done_callback(lambda _: callback())
        return True
