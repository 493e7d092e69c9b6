"""What a call that is being served hands on to the calls it causes.

A server sets `CURRENT` to the call that it serves; every channel of this package reads it when a call starts. So peers
see one request id and one trace, learn for whom it is all done, and no call outlives the one that caused it. Callers
that serve nothing leave it alone, and nothing is handed on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

REQUEST_ID_KEY = "x-request-id"
TRACEPARENT_KEY = "traceparent"  # https://www.w3.org/TR/trace-context/
CALLER_KEY = "handfast-caller"


@dataclass(eq=False)
class Propagated:
    """The request id and `traceparent` to send on, when the time is up, in seconds of `time.monotonic()`, and for which
    `caller` all of it is done: a digest, which names nobody and grants nothing; None where callers are not known.

    A server's own object for a call can be one, so that a call needs no other.
    """

    request_id: str | None = None
    traceparent: str | None = None
    deadline_monotonic_s: float | None = None
    caller: str | None = None

    def remaining(self) -> float | None:
        """Seconds until the deadline, negative once it has passed; None where there is none."""
        return None if self.deadline_monotonic_s is None else self.deadline_monotonic_s - time.monotonic()


CURRENT: ContextVar[Propagated] = ContextVar("handfast_call", default=Propagated())  # noqa: B039 (nobody changes it)


@contextmanager
def propagating(propagated: Propagated) -> Iterator[None]:
    """Hands `propagated` on to every call made within the block, in this thread or task."""
    token = CURRENT.set(propagated)
    try:
        yield
    finally:
        CURRENT.reset(token)
