"""Pools of threads: how many calls each takes at once, and the threads that serve them.

The `Limiter` refuses a call that arrives while its pool is full. grpcio submits the others to one executor. That looks
at their headers, and so at who calls; receives the request, where there is to be just one; has the limiter count the
call in; gives it to a thread of the pool that its method names; and records it at its end: also where the deadline or a
cancellation came before a thread had it, so that no handler ever saw it. Then the call is counted out. Threads start as
they are needed, and are daemons: a handler that will not end does not hold the process.

So a call takes nothing from others before it is known who calls and its request is there.
"""

from __future__ import annotations

import collections
import queue
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent import futures
from contextlib import suppress
from functools import partial
from inspect import signature
from typing import Any

import grpc
import structlog
from grpc import _server
from grpc._cython import cygrpc

from handfast.client.propagation import CURRENT
from handfast.server.chassis.call import Call, Method, Pool, Refused
from handfast.server.chassis.cancellation import Canceller

REFUSALS = Pool("refusals", 1, queue=None)
"""Its thread refuses the calls that are not begun."""
DURATIONS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The bounds, in seconds, of the buckets in which calls are counted by how long they took."""
QUIET = 0.05
"""Seconds without a new call after which a server that stops may expect no more."""
PATIENCE = 1.0
"""Seconds that it waits for that, at the most."""
_TOKEN = "receive_request"  # of an operation that grpcio's state of a call waits for

_log = structlog.get_logger()

_Job = tuple[Call, Callable[..., Any], tuple[Any, ...]]


class Counts:
    """Of one method. Each of `durations` counts the calls that took up to one of `DURATIONS_S`, and longer than the one
    before it; the last counts those that took longer than all of these."""

    def __init__(self) -> None:
        self.started = self.received = self.sent = 0
        self.handled = dict.fromkeys(grpc.StatusCode, 0)
        self.seconds = 0.0
        self.durations = [0] * (len(DURATIONS_S) + 1)


class Limiter:
    """Counts calls as they arrive and as they are recorded: by method for the metrics, and by pool for the limit. In
    flight are those of a pool that have a thread, or wait for one; a call whose request has not come is not, unless its
    requests stream. A refused call is in flight in `REFUSALS`.

    All is counted under one `lock`. Each instrument of the Prometheus client would take a lock of its own, which would
    be most of what counting costs.
    """

    def __init__(self, pools: Iterable[Pool], methods: Iterable[Method]) -> None:
        self.pools = (*pools, REFUSALS)
        self.lock = threading.Lock()
        self.methods = {method: Counts() for method in methods}  # each is there from the start, at 0
        # By name: hashing a pool by its value would cost on every call.
        self.in_flight = {pool.name: 0 for pool in self.pools}
        self._limits = {pool.name: pool.limit for pool in self.pools}
        self.shed = self.in_flight.copy()
        """How many calls were refused for overload since the start."""
        self.awaited = self.in_flight.copy()
        """How many calls wait for their request. grpcio's polling thread changes it."""
        self.draining: frozenset[str] = frozenset()
        self._last_arrived_s = 0.0  # of `time.monotonic()`

    def arrive(self, call: Call) -> bool:
        """Counts a call that arrives, on grpcio's polling thread. Where its pool has as many as it takes, or drains, it
        is refused: `call.refused` says why, and this returns False."""
        name = call.method.pool.name
        self._last_arrived_s = call.arrived_monotonic_s
        self.methods[call.method].started += 1
        if self.in_flight[name] < self._limits[name] and name not in self.draining:
            return True
        self._refuse_for_room(call)
        return False

    def acquire(self, call: Call) -> bool:
        """Counts a call in, or refuses it as `arrive` does."""
        name = call.method.pool.name
        with self.lock:
            if self.in_flight[name] < self._limits[name] and name not in self.draining:
                self.in_flight[name] += 1
                return True
        self._refuse_for_room(call)
        return False

    def refuse(self, call: Call, why: Refused | Exception) -> None:
        """Counts a call that is not in flight as one that is being refused."""
        with self.lock:
            call.refused = why
            self.in_flight[REFUSALS.name] += 1
            if why is Refused.OVERLOADED:
                self.shed[call.method.pool.name] += 1

    def _refuse_for_room(self, call: Call) -> None:
        self.refuse(call, Refused.STOPPING if call.method.pool.name in self.draining else Refused.OVERLOADED)

    def release(self, call: Call) -> None:
        """Counts out a call that is recorded."""
        counts = self.methods[call.method]
        assert call.code is not None
        with self.lock:
            self.in_flight[pool_of(call).name] -= 1
            counts.handled[call.code] += 1
            counts.seconds += call.seconds
            counts.durations[bisect_left(DURATIONS_S, call.seconds)] += 1
            counts.received += call.received
            counts.sent += call.sent

    def drain(self, pools: Collection[Pool], timeout: float) -> bool:
        """Takes no more calls, and waits until those in flight have ended. False where some have not after `timeout`
        seconds."""
        names = {pool.name for pool in pools}
        self.draining |= names
        end = time.monotonic() + timeout
        while any(map(self.in_flight.get, names)):
            if time.monotonic() >= end:
                return False
            time.sleep(0.005)
        return True

    def wait_for_quiet(self, timeout: float, since_s: float = 0.0) -> None:
        """Waits until no call has come for `QUIET` seconds, those after `since_s` of `time.monotonic()`. Not for longer
        than `timeout` and `PATIENCE` seconds: some callers come all the time."""
        end = time.monotonic() + min(timeout, PATIENCE)
        while (now := time.monotonic()) < end and now < max(self._last_arrived_s, since_s) + QUIET:
            time.sleep(0.005)


class CallExecutor(futures.Executor):
    """Serves calls by the threads of their pools. `check` looks at the headers of a call, and raises where it must not
    be begun; it runs on grpcio's polling thread, so it must not wait. Each of `on_record` is called with every call
    once, when that is recorded; it runs between calls, so it must be quick.
    """

    def __init__(
        self,
        limiter: Limiter,
        canceller: Canceller,
        check: Callable[[Call, grpc.ServicerContext], None],
        on_record: Sequence[Callable[[Call], None]],
    ) -> None:
        self._threads = {pool.name: _Threads(pool, self._run) for pool in limiter.pools}
        self._limiter, self._canceller, self._check, self._on_record = limiter, canceller, check, on_record
        self.server_stopped = False
        """Set before the server cancels what is still running."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        # On grpcio's polling thread. grpcio submits `Context.run` of the context that the interceptors ran in.
        call: Any = fn.__self__[CURRENT]  # type: ignore[attr-defined]
        job = call, fn, args
        if call.refused is not None:
            self._put(job)
            return
        call.cancel = args[1].call.cancel
        self._canceller.watch(call)
        try:
            self._check(call, _server._Context(args[1], args[2], None))
        except Exception as error:
            self._limiter.refuse(call, error)
            self._put(job)
            return
        if _IS_AS_EXPECTED and _takes_one_request(args):
            self._await_request(job)
        else:
            self._limiter.acquire(call)
            self._put(job)
        # By a future grpcio would only count calls, which it is not asked to do.

    def _put(self, job: _Job) -> None:
        """Has a thread of its pool serve a call, or that of `REFUSALS` refuse it."""
        call, serve, arguments = job
        # Others are refused whatever they ask for. Of these grpcio finds out whether the caller sent none, or has left.
        if call.refused is not None and call.refused is not Refused.NO_REQUEST:
            job = call, serve, _with_request(arguments, b"")
        self._threads[pool_of(call).name].put(job)

    def _await_request(self, job: _Job) -> None:
        """Receives the request of a call, and then has it served.

        By itself grpcio takes a thread first, which begins to receive the request and waits until the polling thread
        has it. Here a call passes from one thread to another only once, which saves a fifth of what an empty method
        costs (measured), and a request that never comes holds no thread. None of this is public in grpcio, so a version
        that has other things inside does it by itself.
        """
        call, serve, arguments = job
        _function, rpc_event, state, *_rest = arguments
        awaited, pool = self._limiter.awaited, call.method.pool.name

        def received(event: Any) -> Any:
            request = event.batch_operations[0].message()
            with state.condition:
                finished = _finish(state, _TOKEN)
            awaited[pool] -= 1
            call.waiting_since = None
            if request is None:
                self._limiter.refuse(call, Refused.NO_REQUEST)
                self._put(job)
            else:
                self._limiter.acquire(call)
                self._put((call, serve, _with_request(arguments, request)))
            return finished

        awaited[pool] += 1
        call.waiting_since = time.monotonic()
        rpc_event.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
        state.due.add(_TOKEN)

    def stop(self, timeout: float) -> bool:
        """Lets the threads end as they become idle; False where some were busy for `timeout` seconds more."""
        for pool in self._threads.values():
            pool.stop()
        end = time.monotonic() + timeout
        threads = [thread for pool in self._threads.values() for thread in pool.threads]
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _run(self, job: _Job) -> None:
        call, serve, arguments = job
        if call.refused is None:
            call.waiting_since = time.monotonic()  # for its request, where that was not received before
        with suppress(BaseException):  # the caller has its status already
            serve(*arguments)
        # One whose request never came has no context. grpcio gives a status then, though its caller may have left.
        if call.context is None or (call.refused is None and call.method.outlasts_its_handler):
            call.waiting_since = time.monotonic()  # until the caller has taken what it is sent
            _function, rpc_event, state, *_rest = arguments
            context = call.context or _server._Context(rpc_event, state, None)
            if context.add_callback(partial(self._record, call, arguments)):
                return
        self._record(call, arguments)

    def _record(self, call: Call, arguments: tuple[Any, ...]) -> None:
        # grpcio has no public way to ask whether it was given a status for the caller, nor for the deadline of a call
        # that no handler had: both stand in the arguments of the function that it runs.
        _function, rpc_event, state, *_rest = arguments
        call.record(
            status_sent=state.statused and state.client != "cancelled",
            deadline_epoch_s=rpc_event.call_details.deadline,
            server_stopped=self.server_stopped,
        )
        for act in self._on_record:
            try:
                act(call)
            except Exception:  # the thread has further calls to serve
                _log.exception("the end of a call could not be reported", request_id=call.request_id)
        call.context = call.cancel = None  # they lead back to the call: a cycle for the garbage collector


_finish: Any = getattr(_server, "_possibly_finish_call", None)
_IS_AS_EXPECTED = callable(_finish) and [*signature(_finish).parameters] == ["state", "token"]


def _takes_one_request(arguments: tuple[Any, ...]) -> bool:
    """Whether grpcio submits a call that has a single request, and has yet to receive it."""
    return len(arguments) == 7 and getattr(arguments[4], "__name__", "") == "unary_request"


def _with_request(arguments: tuple[Any, ...], request: bytes) -> tuple[Any, ...]:
    """The arguments of the function that serves a call, with its single request, if that was not received before."""
    if not _takes_one_request(arguments):
        return arguments
    return (*arguments[:4], lambda: request, *arguments[5:])


class _Threads:
    """Those of one pool. Only grpcio's polling thread puts jobs."""

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
                self._add_thread()

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._pool.name}-{len(self.threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # The system allows no more. To raise it here would end grpcio's polling thread.
            _log.exception("a thread could not be started", pool=self._pool.name, threads=len(self.threads))
            return
        self.threads.append(thread)

    def stop(self) -> None:
        """Lets each end when it becomes idle."""
        for _ in self.threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._run_job(job)
            del job  # or the call lives on until the next one comes
            self._idle.append(None)


def pool_of(call: Call) -> Pool:
    """The pool whose threads have the call."""
    return call.method.pool if call.refused is None else REFUSALS
