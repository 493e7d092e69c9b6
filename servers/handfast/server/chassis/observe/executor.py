"""The threads that serve calls.

grpcio submits each call to one executor. This one picks the pool that the call's method names, and closes the call's
record when grpcio is done with it: also when the deadline or a cancellation came while the call was queued, so that
no handler ever saw it. Threads start as they are needed, and are daemons: a handler that will not end does not hold
the process.
"""

from __future__ import annotations

import collections
import contextvars
import queue
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Any, TypeVar

from handfast.server.chassis.call import Pool
from handfast.server.chassis.cancellation import Canceller
from handfast.server.chassis.observe.record import RECORD, Record

_T = TypeVar("_T")
_CANCELLED = "cancelled"  # as grpcio's state of a call has it


@dataclass(slots=True)
class _Job:
    future: futures.Future[Any]
    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    record: Record


class _Threads:
    """Those of one pool. Jobs are put by grpcio's polling thread alone."""

    def __init__(self, pool: Pool, run: Callable[[_Job], None]) -> None:
        self._pool, self._run_job = pool, run
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._idle: collections.deque[None] = collections.deque()  # one for each that waits for a job
        self.threads: list[threading.Thread] = []

    def put(self, job: _Job) -> None:
        self._jobs.put(job)
        try:
            self._idle.pop()
        except IndexError:
            if len(self.threads) < self._pool.threads:
                name = f"{self._pool.name}-{len(self.threads)}"
                self.threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                self.threads[-1].start()

    def stop(self) -> None:
        """Lets each end when it becomes idle."""
        for _ in self.threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._run_job(job)
            del job  # or the call lives on until the next one comes
            self._idle.append(None)


class CallExecutor(futures.Executor):
    def __init__(self, canceller: Canceller) -> None:
        self._canceller = canceller
        self.calls_are_cut = False
        """Set before the server cancels what is still running."""
        self._pools: dict[Pool, _Threads] = {}

    def add(self, pool: Pool) -> None:
        self._pools.setdefault(pool, _Threads(pool, self._run))

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> futures.Future[_T]:
        # grpcio submits `Context.run` of the context that the interceptors ran in.
        context: contextvars.Context = fn.__self__  # type: ignore[attr-defined]
        record = context[RECORD]
        future: futures.Future[_T] = futures.Future()
        self._pools[record.pool].put(_Job(future, fn, args, record))
        return future

    def stop(self, timeout: float) -> bool:
        """Lets the threads end as they become idle; False where some were busy for `timeout` seconds more."""
        for pool in self._pools.values():
            pool.stop()
        end = time.monotonic() + timeout
        threads = [thread for pool in self._pools.values() for thread in pool.threads]
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _run(self, job: _Job) -> None:
        record = job.record
        if record.refused is None:
            call = record.call
            call.cancel = job.arguments[1].call.cancel
            call.waiting_since = time.monotonic()  # for its request
            self._canceller.begin(call)
        try:
            job.future.set_result(job.run(*job.arguments))
        except BaseException as error:
            job.future.set_exception(error)
        begun = record.call.context is not None  # not without a request: nothing would tell when such a call is over
        if begun and record.call.method.outlasts_its_handler:
            record.call.waiting_since = None
            record.when_over(lambda: self._close(job))
        else:
            self._close(job)

    def _close(self, job: _Job) -> None:
        # grpcio has no public way to ask whether the caller was sent a status, nor for the deadline of a call that no
        # handler had: both stand in the arguments of the function that it runs.
        _function, rpc_event, state, *_rest = job.arguments
        job.record.close(
            status_sent=state.statused and state.client != _CANCELLED,
            deadline=rpc_event.call_details.deadline,
            server_stopped=self.calls_are_cut,
        )
