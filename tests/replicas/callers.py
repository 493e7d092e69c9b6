"""What callers are told, call by call, after all that their client makes again by itself."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from handfast.client.errors import service_error

ANSWERS = {
    grpc.StatusCode.OK,
    *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS),
    *(grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED),
}
"""Codes by which a server that works says what is so."""
SLOW_S = 1.0
"""A call that takes longer has met the fault."""
LITTLE_S = 5.0
"""What is left of a transaction's time may be too little for a call that meets a fault."""
LITTLE = f", with less than {LITTLE_S:.0f} s for it"


@dataclass(frozen=True, slots=True)
class Call:
    """Times are of `time.monotonic`; `timeout` is in seconds; `reason` is why it failed, in the words of gRPC where no
    server has said so.
    """

    method: str
    began: float
    ended: float
    timeout: float
    code: grpc.StatusCode
    reason: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def failed(self) -> bool:
        return self.code not in ANSWERS

    @property
    def harmed(self) -> bool:
        return self.failed or self.seconds > SLOW_S

    def __str__(self) -> str:
        """The same for all that are alike."""
        little = LITTLE if self.timeout < LITTLE_S else ""
        return f"{self.method} {self.code.name} {self.reason}{little}".rstrip()


class Calls(grpc.UnaryUnaryClientInterceptor):
    """Notes each call of the clients that it is given to, when it ends."""

    def __init__(self) -> None:
        self._noting = threading.Lock()
        self._all: list[Call] = []

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        began = time.monotonic()

        def note(ended: Any) -> None:
            code, reason = ended.code(), ""
            if code not in ANSWERS:
                error = service_error(ended, "")
                reason = error.reason or error.message
            call = Call(details.method.rpartition("/")[2], began, time.monotonic(), details.timeout, code, reason)
            with self._noting:
                self._all.append(call)

        call = continuation(details, request)
        call.add_done_callback(note)
        return call

    def since(self, moment: float) -> list[Call]:
        """Those that ended after it."""
        with self._noting:
            return [call for call in self._all if call.ended >= moment]


@dataclass(frozen=True)
class Felt:
    """What callers felt of a fault: how long after it a call began that failed or was slow, how long the longest one
    took, of how many, and which failed.
    """

    calls: int
    harmed: int
    seconds: float
    longest: float
    slowest: str
    failed: Counter[str]

    def __str__(self) -> str:
        return (
            f"{self.harmed:3} of {self.calls:5} calls met it, the last began after {self.seconds:5.2f} s, "
            f"the longest took {self.longest:5.2f} s{self.slowest}, {self.failed.total()} failed"
        )


def felt(fault_at: float, calls: Sequence[Call]) -> Felt:
    harmed = [call for call in calls if call.harmed]
    slowest = max(calls, key=lambda call: call.seconds, default=None)
    return Felt(
        len(calls),
        len(harmed),
        max([0.0, *(call.began - fault_at for call in harmed)]),
        slowest.seconds if slowest else 0.0,
        f" ({slowest}, after {slowest.began - fault_at:.2f} s)" if slowest and slowest.harmed else "",
        Counter(str(call) for call in calls if call.failed),
    )
