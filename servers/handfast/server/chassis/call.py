"""The call that is being served: `current()` from anywhere beneath a handler.

What is the same for every call of a method is a `Method`, computed once; what belongs to one call is a `Call`.
"""

from __future__ import annotations

import math
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from handfast.chassis.v1 import options_pb2
from handfast.client.propagation import REQUEST_ID_KEY, TRACEPARENT_KEY
from handfast.server.chassis.logs.redaction import PersonalData

DEFAULT_DEADLINE = 30.0
"""Seconds that a unary call gets when its caller sets no deadline."""

STREAM_IDLE_TIMEOUT = 30.0
"""Seconds that a call may keep a thread waiting for its caller."""

_NO_DEADLINE = 1e9  # grpcio reports some 9e18 seconds where the caller set none
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: only a later version may have more parts, and none is `ff`;
# ids of zeros stand for none.
_TRACEPARENT = re.compile(
    r"(00|(?P<later>(?!00|ff)[0-9a-f]{2}))-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?(later)(-[!-~]{0,128})?)"
)
_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


def tolerance_of(timeout: float) -> float:
    """A timeout is rounded up by up to 1 % on its way here, so at the deadline the caller cancels a little early."""
    return max(0.01, 0.01 * timeout)


@dataclass(frozen=True, slots=True)
class Pool:
    """Threads that serve some methods and no others. Calls that wait for each other need different pools: when
    all threads of one wait for calls that queue behind them, nothing moves again.

    `queue` is how many calls may wait for a thread; further ones are refused. None: any number. `stream_idle_timeout`
    is how many seconds a call may keep a thread waiting for its caller: for a request, or until a reply is taken.
    """

    name: str
    threads: int
    queue: int | None = 256
    stream_idle_timeout: float = STREAM_IDLE_TIMEOUT

    @property
    def limit(self) -> float:
        """How many calls it takes at once, those that wait included."""
        return math.inf if self.queue is None else self.threads + self.queue


@dataclass(frozen=True, slots=True, eq=False)  # there is one of each, and hashing by value would cost on every call
class Method:
    """What is known of a method before anybody calls it.

    `domain` is the service's name in errors, such as `handfast.users`; `type` is as go-grpc-middleware names it. The
    handler of one that `pushes` hands its call over to an `Outlet`, and ends.
    """

    path: str
    service: str
    name: str
    type: str
    domain: str
    pool: Pool
    refuses_transactions: bool = False
    pushes: bool = False

    @property
    def outlasts_its_handler(self) -> bool:
        """Whether only the end of a call tells how it ended. Where requests stream, they can run out before grpcio says
        that the caller left: the handler then ends as if all were well."""
        return self.pushes or self.type in ("client_stream", "bidi_stream")

    @classmethod
    def of(cls, descriptor: MethodDescriptor, domain: str, pool: Pool) -> Method:
        service = descriptor.containing_service.full_name
        return cls(
            path=f"/{service}/{descriptor.name}",
            service=service,
            name=descriptor.name,
            type=_TYPES[descriptor.client_streaming, descriptor.server_streaming],
            domain=domain,
            pool=pool,
            refuses_transactions=not descriptor.GetOptions().Extensions[options_pb2.stageable],
        )


class Wakes:
    """How to wake what a handler waits for. Its lock is held while that is done."""

    def __init__(self) -> None:
        self.all: list[Callable[[], object]] = []
        self.lock = threading.Lock()


@dataclass(slots=True, eq=False)
class Call:
    """One call.

    path               as the caller wrote it, with the leading slash
    request_id         the caller's `x-request-id`, or one minted here
    traceparent        the caller's trace, as it goes on to peers; None without one, or where it is malformed
    deadline           when to give up, in seconds of `time.monotonic()`; None for streams without one
    metadata           what the caller sent; of a key that came more than once the last value
    repeated           the keys that came more than once: who reads one that can have one meaning only has to refuse it
    initial_metadata   what goes to the caller before the first reply; append to it. An error goes out without:
                       gRPC clients try again only where nothing but a status has come back
    log                fields for this call's line in the log, such as `transaction_id`; never personal data
    request            the message that was read last; None before the first
    context            grpcio's own, once a handler has the call
    tolerance          how many seconds before the deadline a caller that leaves does so for the deadline
    over, stopping     the caller has left; the server stops. The handler may run on
    waiting_since      since when it keeps its thread waiting for the caller, in seconds of `time.monotonic()`
    cancel             ends it with a code and a message; None before a thread has it
    cut                why the server ended it, if it did
    shielded, wakes    how `cancellation.py` stops what the handler waits for
    """

    method: Method
    path: str
    metadata: Mapping[str, str | bytes]
    request_id: str
    traceparent: str | None
    peer: str = ""
    deadline: float | None = None
    initial_metadata: list[tuple[str, str | bytes]] = field(default_factory=list)
    log: dict[str, object] = field(default_factory=dict)
    request: Message | None = None
    context: grpc.ServicerContext | None = None
    tolerance: float = 0.0
    over: bool = False
    stopping: bool = False
    waiting_since: float | None = None
    cancel: Callable[[int, str], object] | None = None
    cut: str = ""
    shielded: bool = False
    repeated: frozenset[str] = frozenset()
    wakes: Wakes | None = None
    _initial_metadata_sent: bool = False
    _personal_data: tuple[Message, PersonalData] | None = None

    @classmethod
    def received(cls, method: Method, path: str, entries: Sequence[tuple[str, str | bytes]]) -> Call:
        metadata = dict(entries)
        repeated = frozenset[str]()
        if len(metadata) < len(entries):
            repeated = frozenset(key for key, count in Counter(key for key, _ in entries).items() if count > 1)
        # A malformed id is replaced, not refused: it is no reason to fail a call. Nor are several.
        request_id = None if REQUEST_ID_KEY in repeated else metadata.get(REQUEST_ID_KEY)
        if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
            request_id = str(uuid.uuid4())
        traceparent = metadata.get(TRACEPARENT_KEY)  # of several gRPC itself keeps the last
        # What is none is not handed on: it could be no header value at all.
        if not isinstance(traceparent, str) or not _TRACEPARENT.fullmatch(traceparent):
            traceparent = None
        return cls(
            method=method,
            path=path,
            metadata=metadata,
            request_id=request_id,
            traceparent=traceparent,
            repeated=repeated,
            initial_metadata=[(REQUEST_ID_KEY, request_id)],
        )

    def begin(self, context: grpc.ServicerContext) -> None:
        """A handler starts on the call."""
        self.context = context
        self.peer = context.peer()
        remaining = context.time_remaining()
        if remaining is not None and remaining < _NO_DEADLINE:
            self.deadline = time.monotonic() + remaining
            self.tolerance = tolerance_of(remaining)
        elif self.method.type == "unary":
            self.deadline = time.monotonic() + DEFAULT_DEADLINE

    @property
    def trace_id(self) -> str | None:
        """The id of the caller's trace, 32 hexadecimal digits; None without one."""
        return None if self.traceparent is None else self.traceparent.split("-")[1]

    def remaining(self) -> float | None:
        """Seconds until the deadline, negative once it has passed; None where there is none."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def personal_data(self) -> PersonalData | None:
        """What the request has that must not be printed, as it was when this was first asked. None before there is
        a request."""
        request, known = self.request, self._personal_data
        if request is None:
            return None
        if known is None or known[0] is not request:
            known = self._personal_data = request, PersonalData([request])
        return known[1]

    def add_trailer(self, key: str, value: str | bytes) -> None:
        """Adds to what the caller gets after the last reply, or with the error."""
        if self.context is not None:
            earlier = self.context.trailing_metadata() or ()
            self.context.set_trailing_metadata((*earlier, (key, value)))

    def send_initial_metadata(self, *extra: tuple[str, str | bytes]) -> None:
        """Sends the initial metadata now rather than with the first reply, for what the caller should learn even
        if no reply follows. The first to send decides; whatever comes later is not sent."""
        if self._initial_metadata_sent or self.context is None:
            return
        self._initial_metadata_sent = True
        self.initial_metadata.extend(extra)
        try:
            self.context.send_initial_metadata(tuple(self.initial_metadata))
        except (ValueError, grpc.RpcError):  # a handler sent some by itself, or nobody listens any more
            return


CURRENT: ContextVar[Call] = ContextVar("handfast_call")


def current() -> Call:
    """The call that this thread serves. Raises LookupError outside of calls."""
    return CURRENT.get()
