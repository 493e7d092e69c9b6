"""What becomes of one call."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import grpc

from handfast.server.chassis.call import Call, Pool, tolerance_of

REFUSALS = Pool("refusals", 1, queue=None)
"""Its thread refuses the calls that are not begun."""


class Refused(enum.Enum):
    """Why a call is not begun."""

    OVERLOADED = enum.auto()
    STOPPING = enum.auto()


@dataclass(slots=True)
class Record:
    """One call, from its arrival to its end.

    refused            why it is not begun, if it is not
    code               what the handler decided, then what the caller saw; None before that
    arrived, over      when, in seconds since the epoch; a handler can run on after its call is over
    seconds            from arrival to the end, the time in the queue included
    received, sent     messages
    """

    call: Call
    refused: Refused | None
    reporters: Sequence[Callable[[Record], None]]
    started: float = field(default_factory=time.perf_counter)
    arrived: float = field(default_factory=time.time)
    over: float | None = None
    code: grpc.StatusCode | None = None
    received: int = 0
    sent: int = 0
    seconds: float = 0.0
    _afterwards: list[Callable[[], None]] | None = None

    @property
    def pool(self) -> Pool:
        """Whose threads have the call."""
        return self.call.method.pool if self.refused is None else REFUSALS

    def note_over(self) -> None:
        """grpcio is done with the call. Its handler may run on, if the caller left."""
        self.over = time.time()
        if self._afterwards is not None:
            self._do_afterwards()

    def when_over(self, act: Callable[[], None]) -> None:
        """Does it then, or now if the call is over; once, whichever thread comes first."""
        self._afterwards = [act]
        if self.over is not None:
            self._do_afterwards()

    def _do_afterwards(self) -> None:
        assert self._afterwards is not None
        try:
            act = self._afterwards.pop()
        except IndexError:
            return
        act()

    def close(self, *, status_sent: bool, deadline: float, server_stopped: bool) -> None:
        """The call is over, and its handler has ended: the executor says so once. `deadline` is in seconds since the
        epoch, far in the future where there is none."""
        self.seconds = time.perf_counter() - self.started
        if self.call.cut and (self.code is None or not status_sent):
            self.code = grpc.StatusCode.DEADLINE_EXCEEDED
        elif not status_sent:
            self.code = self._code_of_a_cut_call(deadline, server_stopped)
        elif self.code is None:
            # Without a handler, grpcio answers just one thing: that a unary call came without its request.
            self.code = grpc.StatusCode.UNIMPLEMENTED
        for report in self.reporters:
            report(self)
        self.call.context = self.call.cancel = None  # they lead back to the call: a cycle for the garbage collector

    def _code_of_a_cut_call(self, deadline: float, server_stopped: bool) -> grpc.StatusCode:
        left = deadline - (self.over or time.time())
        if left <= tolerance_of(deadline - self.arrived):
            return grpc.StatusCode.DEADLINE_EXCEEDED
        return grpc.StatusCode.UNAVAILABLE if server_stopped else grpc.StatusCode.CANCELLED


RECORD: ContextVar[Record] = ContextVar("handfast_record")
