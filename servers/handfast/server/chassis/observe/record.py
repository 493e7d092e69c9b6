"""What becomes of one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import grpc

from handfast.server.chassis.call import Call


@dataclass(slots=True)
class Record:
    """One call, from its arrival to its end.

    code               what the handler decided, then what the caller saw; None before that
    outlives_handler   replies may follow after the handler has returned, so its return does not end the call
    seconds            from arrival to the end, the time in the queue included
    received, sent     messages
    """

    call: Call
    reporters: Sequence[Callable[[Record], None]]
    started: float = field(default_factory=time.perf_counter)
    code: grpc.StatusCode | None = None
    outlives_handler: bool = False
    received: int = 0
    sent: int = 0
    seconds: float = 0.0
    closed: bool = False

    def close(self, *, status_sent: bool, deadline_passed: bool, server_stopped: bool) -> None:
        """The call is over. Only the first time counts."""
        if self.closed:
            return
        self.closed = True
        self.seconds = time.perf_counter() - self.started
        if not status_sent:
            self.code = _code_of_a_cut_call(deadline_passed, server_stopped)
        elif self.code is None:
            # Without a handler, grpcio answers just one thing: that a unary call came without its request.
            self.code = grpc.StatusCode.UNIMPLEMENTED
        for report in self.reporters:
            report(self)
        self.call.context = None  # grpcio's context leads back to the call: a cycle for the garbage collector


def _code_of_a_cut_call(deadline_passed: bool, server_stopped: bool) -> grpc.StatusCode:
    if deadline_passed:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.UNAVAILABLE if server_stopped else grpc.StatusCode.CANCELLED


RECORD: ContextVar[Record] = ContextVar("handfast_record")
