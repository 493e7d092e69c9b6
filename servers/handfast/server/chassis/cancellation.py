"""Stops what a handler waits for when nobody waits for the handler any more: the caller has left, the deadline has
passed, or the server stops. Such a call is said to be over. And ends calls that wait too long for their callers.

A handler that waits (for the database, a lock, a peer, the next attempt) does so in a block that says how to wake it.
Outside of calls, and in `shield` blocks, nothing is woken.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import MappingProxyType
from typing import Any

import grpc
import structlog

from handfast.server.chassis.call import Call, Callbacks, serving
from handfast.server.chassis.errors import CallCancelled, CallDeadlineExceeded, DomainError, ShuttingDown

LOOK_EVERY = 0.1
"""Seconds between looks at all calls: grpcio knows nothing of deadlines that are the server's own."""
PATIENCE_WITH_MANY = 1.0
"""Seconds that a request has to come while more than `Pool.most_awaited` have not: so all together take no more memory
than can be sent in that time. An honest caller's request follows its headers at once, unless it is large."""

_log = structlog.get_logger()


def why_ended(call: Call, *, early: float = 0.0) -> DomainError | None:
    """Why the call is over; None where it is not. A deadline counts as passed `early` seconds before its time."""
    deadline = call.deadline_monotonic_s
    if call.grpc_ended_epoch_s is not None:
        early = max(early, call.tolerance_s)
    if deadline is not None and deadline - time.monotonic() <= early:
        return CallDeadlineExceeded("The time was up before the work was done.")
    if call.grpc_ended_epoch_s is not None:
        return CallCancelled("The call was cancelled before the work was done.")
    if call.stopping:
        return ShuttingDown("The server stops, and the work was not done in time.")
    return None


def check_active() -> None:
    """Raises CallDeadlineExceeded, CallCancelled or ShuttingDown where the call being served is over. To be called last
    before a commit: a handler may run on after its caller has given up, and must not change then what the caller
    believes unchanged.
    """
    call = serving()
    if call is not None and not call.shielded and (why := why_ended(call)) is not None:
        raise why


def cancel_scope(wake: Callable[[], object]) -> AbstractContextManager[None]:
    """A block that waits for something. Calls `wake` from another thread when the call being served is over, but never
    after the block has been left: to leave it takes until a `wake` under way has returned. To enter it raises as
    `check_active` does where the call is over already.
    """
    call = serving()
    return _NO_CALL if call is None or call.shielded else _CancelScope(call, wake)


class _CancelScope(AbstractContextManager[None]):
    __slots__ = ("_callbacks", "_wake")

    def __init__(self, call: Call, wake: Callable[[], object]) -> None:
        # Few calls wait for anything, so they are made by the first who does: `setdefault` keeps those.
        self._callbacks = call.callbacks or vars(call).setdefault("callbacks", Callbacks())
        self._wake = wake

    def __enter__(self) -> None:
        with self._callbacks.lock:
            self._callbacks.all.append(self._wake)
        try:
            check_active()  # only now, or the call could be over in between, and nobody would wake it
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_error: object) -> None:
        with self._callbacks.lock:
            self._callbacks.all.remove(self._wake)


_NO_CALL = nullcontext()


@contextmanager
def shield() -> Iterator[None]:
    """For what has to be done though the call is over, such as rolling back."""
    call = serving()
    if call is None:
        yield
        return
    before, call.shielded = call.shielded, True
    try:
        yield
    finally:
        call.shielded = before


def sleep(seconds: float) -> None:
    """Sleeps. Raises as `check_active` does as soon as the call being served is over."""
    wait(threading.Event(), seconds)


def wait(event: threading.Event, seconds: float) -> None:
    """Waits so long for an event at the most. Raises as `check_active` does as soon as the call being served is over,
    when the event is set as well."""
    with cancel_scope(event.set):
        event.wait(seconds)
    check_active()


def wait_for(future: Any) -> Any:
    """Waits for a peer's answer (a future of one of the client's stubs, or a call that was begun), and cancels it when
    the call being served is over. Raises what `result()` raises, or as `check_active` does.
    """
    try:
        with cancel_scope(future.cancel):
            return future.result()
    except grpc.FutureCancelledError:
        check_active()
        raise
    except DomainError:
        future.cancel()
        raise


def wait_for_all(*futures: Any) -> list[Any]:
    """`wait_for` each of several peers, which work at the same time. Where one fails, the others are cancelled."""
    try:
        return [wait_for(future) for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


class Canceller(threading.Thread):
    """Wakes the handlers of calls that are over. It is a thread of its own, because grpcio says on its polling thread
    that it is done with a call, and to wake a handler can take longer than that thread may be held up.
    """

    def __init__(self, awaited: Mapping[str, int] = MappingProxyType({})) -> None:
        """`awaited` has, by the name of a pool, for how many requests it waits."""
        super().__init__(name="canceller", daemon=True)
        self._awaited = awaited
        self._to_wake: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self.running: set[Call] = set()
        """Calls that were submitted and are not recorded."""
        self._stopping = False

    def watch(self, call: Call) -> None:
        """The call was submitted."""
        self.running.add(call)
        if self._stopping:  # looked at after it was added: `interrupt_all` may be under way
            call.stopping = True

    def forget(self, call: Call) -> None:
        """The call is recorded, or an `Outlet` has it."""
        self.running.discard(call)

    def grpc_ended(self, call: Call) -> None:
        """grpcio is done with the call: its caller has the reply, or has left, or its deadline has passed."""
        call.grpc_ended_epoch_s = time.time()
        if call.callbacks is not None and call.callbacks.all:
            self._to_wake.put(call)

    def interrupt_all(self) -> None:
        """The server stops, and calls have had their time to end."""
        self._stopping = True
        for call in self.running.copy():
            call.stopping = True
            self._to_wake.put(call)

    def stop(self) -> None:
        self._to_wake.put(None)

    def run(self) -> None:
        look_at = time.monotonic() + LOOK_EVERY
        while True:
            with suppress(queue.Empty):
                if (call := self._to_wake.get(timeout=max(0.0, look_at - time.monotonic()))) is None:
                    return
                _wake(call)
            if time.monotonic() >= look_at:
                # Again and again: a handler that was woken between two statements goes on to wait for the next.
                for call in self.running.copy():
                    self._end_idle(call)
                    if call.callbacks is not None and why_ended(call) is not None:
                        _wake(call)
                look_at = time.monotonic() + LOOK_EVERY

    def _end_idle(self, call: Call) -> None:
        """Ends the call if it has waited too long for its caller."""
        since, cancel, pool = call.waiting_since, call.cancel, call.method.pool
        if since is None or cancel is None or call.idle_error:
            return
        limit = pool.stream_idle_timeout
        if call.context is None and self._awaited.get(pool.name, 0) > pool.most_awaited:
            limit = min(limit, PATIENCE_WITH_MANY)
        if time.monotonic() - since < limit:
            return
        call.idle_error = (
            f"The server waited {limit:g} seconds for the caller, who neither sent a request nor took a reply."
        )
        call.log["error.message"] = call.idle_error
        cancel(grpc.StatusCode.DEADLINE_EXCEEDED.value[0], call.idle_error)


def _wake(call: Call) -> None:
    if call.callbacks is None:
        return
    with call.callbacks.lock:
        for wake in call.callbacks.all:
            try:
                wake()
            except Exception:
                _log.exception("a call that is over could not be interrupted", request_id=call.request_id)
