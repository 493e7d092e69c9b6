"""The threads that serve calls.

grpcio submits each call to one executor. This one picks the pool that the call's method names, and closes the call's
record when grpcio is done with it: also when the deadline or a cancellation came while the call was queued, so that
no handler ever saw it. Its threads are daemons: a handler that will not end does not hold the process.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Any, TypeVar

from handfast.server.chassis.call import Pool
from handfast.server.chassis.observe.record import RECORD, Record

_T = TypeVar("_T")
_CANCELLED = "cancelled"  # as grpcio's state of a call has it


@dataclass(slots=True)
class _Job:
    future: futures.Future[Any]
    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    record: Record


class CallExecutor(futures.Executor):
    def __init__(self) -> None:
        self.calls_are_cut = False
        """Set before the server cancels what is still running."""
        self._pools: dict[Pool, queue.SimpleQueue[_Job | None]] = {}
        self._threads: list[threading.Thread] = []

    def add(self, pool: Pool) -> None:
        """Starts the threads of a pool, unless it was added before."""
        if pool in self._pools:
            return
        jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pools[pool] = jobs
        for number in range(pool.threads):
            thread = threading.Thread(target=self._work, args=(jobs,), name=f"{pool.name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> futures.Future[_T]:
        # grpcio submits `Context.run` of the context that the interceptors ran in.
        context: contextvars.Context = fn.__self__  # type: ignore[attr-defined]
        record = context[RECORD]
        future: futures.Future[_T] = futures.Future()
        self._pools[record.pool].put(_Job(future, fn, args, record))
        return future

    def stop(self, timeout: float) -> bool:
        """Lets the threads end as they become idle; False where some were busy for `timeout` seconds more."""
        for pool, jobs in self._pools.items():
            for _ in range(pool.threads):
                jobs.put(None)
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, jobs: queue.SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            self._run(job)
            del job  # or the call lives on until the next one comes

    def _run(self, job: _Job) -> None:
        try:
            job.future.set_result(job.run(*job.arguments))
        except BaseException as error:
            job.future.set_exception(error)
        record = job.record
        if record.refused is None and record.call.method.streams_requests:
            # The requests can run out before grpcio says that the caller left: the handler then ends as if all were
            # well, and only the end of the call tells.
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
