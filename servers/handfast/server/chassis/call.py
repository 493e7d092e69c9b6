"""The call that is being served: `current()` from anywhere beneath a handler.

What is the same for every call of a method is a `Method`, computed once; what belongs to one call is a `Call`.
"""

from __future__ import annotations

import enum
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from handfast.chassis.v1 import options_pb2
from handfast.client.propagation import CURRENT as CURRENT
from handfast.client.propagation import REQUEST_ID_KEY, TRACEPARENT_KEY, Propagated
from handfast.client.transaction_metadata import STAGE_KEYS, STAGING_KEYS
from handfast.server.chassis.errors import DomainError
from handfast.server.chassis.logs.redaction import PersonalData
from handfast.server.chassis.metadata import check_metadata
from handfast.server.chassis.security.identity import Identity
from handfast.server.chassis.security.permission import Permission

DEFAULT_DEADLINE = 30.0
"""Seconds that a unary call gets when its caller sets no deadline."""

STREAM_IDLE_TIMEOUT = 30.0
"""Seconds that a call may wait for its caller: for a request, or until a reply is taken."""

_NO_DEADLINE = 1e9  # grpcio reports some 9e18 seconds where the caller set none
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: only a later version may have more parts, and none is `ff`;
# an id of zeros means that there is none.
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
Metadata = Sequence[tuple[str, str | bytes]]
_OK, _UNKNOWN = grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN
_random = random.Random()  # request ids need to be unique, not secret, and this costs no system call


def tolerance_of(timeout: float) -> float:
    """How many seconds before the end of a timeout a caller that leaves counts as one whose time is up. gRPC rounds a
    timeout up by up to 1 % on its way here, so the caller's own clock ends the call a little before the server's."""
    return max(0.01, 0.01 * timeout)


@dataclass(frozen=True, slots=True)
class Pool:
    """Threads that serve some methods and no others. Calls that wait for each other need different pools: when
    all threads of one wait for calls that queue behind them, nothing moves again.

    name                  in metrics; no two pools of a server have the same
    threads               how many calls are served at once
    queue                 how many more may wait for a thread, with their requests; further ones are refused. None: any
                          number
    stream_idle_timeout   how many seconds a call may wait for its caller: for a request, or until a reply is taken. A
                          request has less while there are many that have not come (`cancellation.py`)
    """

    name: str
    threads: int
    queue: int | None = 256
    stream_idle_timeout: float = STREAM_IDLE_TIMEOUT

    @property
    def limit(self) -> float:
        """How many calls it takes at once, those that wait included."""
        return math.inf if self.queue is None else self.threads + self.queue

    @property
    def most_awaited(self) -> int:
        """For how many requests it waits patiently at once: they take memory as they come."""
        return self.threads + (self.queue or 0)


class Refused(enum.Enum):
    """Why a call is not begun, whatever its request is."""

    OVERLOADED = enum.auto()
    NO_REQUEST = enum.auto()
    """Its caller sent none, or has left."""
    STOPPING = enum.auto()


@dataclass(frozen=True, slots=True, eq=False)  # there is one of each, and hashing by value would cost on every call
class Method:
    """What is known of a method before anybody calls it.

    `domain` is the service's name in errors, such as `handfast.users`; `type` is as go-grpc-middleware names it.
    `refused_keys` is the metadata of transactions that the method does not take. Where a method `pushes`, its handler
    returns at once, and an `Outlet` sends the replies. `permission` says who may call it; None where its contract does
    not. It `writes` unless its contract says that it has no side effects.
    """

    path: str
    service: str
    name: str
    type: str
    domain: str
    pool: Pool
    refused_keys: frozenset[str] = frozenset()
    pushes: bool = False
    permission: Permission | None = None
    writes: bool = False

    @property
    def outlasts_its_handler(self) -> bool:
        """Whether a call can go on after its handler has ended, so that its code is known only once grpcio is done with
        it. Where requests stream, they can run out before grpcio says that the caller left: the handler then ends as if
        all were well."""
        return self.pushes or self.type in ("client_stream", "bidi_stream")

    @classmethod
    def of(
        cls, descriptor: MethodDescriptor, domain: str, pool: Pool, server: str = "", own_kinds: Set[str] = frozenset()
    ) -> Method:
        """As its contract has it, on the server of that name, with these kinds of resources that belong to subjects.
        Raises ValueError where its permission cannot be."""
        service = descriptor.containing_service.full_name
        return cls(
            path=f"/{service}/{descriptor.name}",
            service=service,
            name=descriptor.name,
            type=_TYPES[descriptor.client_streaming, descriptor.server_streaming],
            domain=domain,
            pool=pool,
            refused_keys=_refused_keys(descriptor),
            permission=Permission.of(descriptor, server, own_kinds),
            writes=descriptor.GetOptions().idempotency_level != MethodOptions.NO_SIDE_EFFECTS,
        )


def _refused_keys(descriptor: MethodDescriptor) -> frozenset[str]:
    options = descriptor.GetOptions().Extensions
    if options[options_pb2.stageable]:
        return frozenset()
    return STAGING_KEYS if options[options_pb2.lockable] else STAGE_KEYS


class Callbacks:
    """What to call when nobody waits for a call any more, so that its handler stops waiting, too. The lock is held
    while they are called."""

    def __init__(self) -> None:
        self.all: list[Callable[[], object]] = []
        self.lock = threading.Lock()


class Refuses(Protocol):
    enforced: bool

    def refuse(self, call: Call, error: DomainError) -> None:
        """Raises the error, or notes that it would be raised (`security/guard.py`)."""


class Call(Propagated):
    """One call, from its arrival to its end.

    path                   as the caller wrote it, with the leading slash
    request_id             the caller's `x-request-id`, or one minted here
    traceparent            the caller's trace, as it goes on to peers, with this call's span where it is traced; None
                           without one, or where it is malformed
    deadline_monotonic_s   when to give up, in seconds of `time.monotonic()`; None for streams without one
    metadata               what the caller sent; of a key that came more than once the last value
    repeated               the keys that came more than once: a key that can have one value only is refused then
    log                    fields for this call's line in the log, such as `transaction_id`; never personal data
    state                  what interceptors leave for those inside of them and for the handler, such as a tenant
    identity               who calls; None where the server does not ask, or only observes and could not find out
    caller                 the name under which to keep what is the caller's (`security/callers.py`); None as `identity`
    guard                  refuses it for who calls; None where the server does not ask
    is_to_be_checked       it depends on the request whether the caller may make it
    request                the message that was read last; None before the first
    resources              ids that requests of a stream were about, with commas between them, for the audit
    reply                  the message that a write has answered last; None before the first
    context                grpcio's own; None before the handler starts, and once the call is recorded
    trailers               what the chassis and transactions send after the last reply, or with the error
    refused                why the call is refused before its request is read, if it is: for what the server has to do,
                           or with this error, for its metadata or for who calls
    tolerance_s            a caller that leaves so many seconds before the deadline counts as one whose time is up
    grpc_ended_epoch_s     when grpcio was done with the call, in seconds since the epoch; None before that
    span                   of OpenTelemetry, where it is traced; None else
    stopping               the server stops, and this call has had its time to end
    waiting_since          since when the handler or its request waits for the caller, in seconds of `time.monotonic()`;
                           None while neither does
    cancel                 ends the call with a code and a message; None before it is submitted, and once it is recorded
    idle_error             what its caller is told where the server ended the call for waiting too long; else empty
    shielded, callbacks    how `cancellation.py` stops what the handler waits for
    code                   what the handler decided; once the call is recorded, what the caller saw; None before that
    arrived_monotonic_s    when the call arrived, in seconds of `time.monotonic()`
    seconds                from its arrival until it was recorded, the time in the queue included
    received, sent         how many messages
    pushed                 an `Outlet` sends the replies and ends the call

    A call ends in three steps:

    handler_ended    the handler has returned or raised, and the code that it decided is known
    grpc_ended       (of the `Canceller`) grpcio is done with the call: its caller has the reply, or has left. Where
                     the caller left, this comes first, and the handler may run on
    record           the handler has ended and grpcio was given its status, or has ended, too. From then on `code` is
                     what the caller saw, and nothing changes any more
    """

    # Most calls keep these. As attributes of the class they cost a call nothing.
    request_id: str
    traceparent: str | None = None
    deadline_monotonic_s: float | None = None
    repeated: frozenset[str] = frozenset()
    identity: Identity | None = None
    guard: Refuses | None = None
    is_to_be_checked = False
    request: Message | None = None
    resources = ""
    reply: Message | None = None
    context: grpc.ServicerContext | None = None
    trailers: Metadata = ()
    refused: Refused | Exception | None = None
    tolerance_s = 0.0
    grpc_ended_epoch_s: float | None = None
    span: Any = None
    stopping = False
    waiting_since: float | None = None
    cancel: Callable[[int, str], object] | None = None
    idle_error = ""
    shielded = False
    callbacks: Callbacks | None = None
    code: grpc.StatusCode | None = None
    seconds = 0.0
    received = 0
    sent = 0
    pushed = False
    _initial_metadata_sent = False
    _personal_data: tuple[Message, PersonalData] | None = None

    def __init__(self, method: Method, path: str, metadata: Metadata = ()) -> None:
        self.method = method
        self.path = path
        self.arrived_monotonic_s = time.monotonic()
        self.log: dict[str, object] = {}
        self.state: dict[str, Any] = {}
        self.metadata: Mapping[str, str | bytes] = dict(metadata)
        if len(self.metadata) < len(metadata):
            self.repeated = frozenset(key for key, count in Counter(key for key, _ in metadata).items() if count > 1)
        # A malformed id is replaced, not refused: it is no reason to fail a call. Nor are several.
        request_id = self.metadata.get(REQUEST_ID_KEY)
        if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id) or REQUEST_ID_KEY in self.repeated:
            request_id = f"{_random.getrandbits(128):032x}"
        self.request_id = request_id
        traceparent = self.metadata.get(TRACEPARENT_KEY)  # of several gRPC itself keeps the last
        # A malformed one is not handed on: it may be no header value at all.
        if isinstance(traceparent, str) and _TRACEPARENT.fullmatch(traceparent):
            self.traceparent = traceparent

    def begin(self, context: grpc.ServicerContext) -> None:
        """The handler starts."""
        self.context = context
        self.waiting_since = None
        remaining = context.time_remaining()
        if remaining is not None and remaining < _NO_DEADLINE:
            self.deadline_monotonic_s = time.monotonic() + remaining
            self.tolerance_s = tolerance_of(remaining)
        elif self.method.type == "unary":
            self.deadline_monotonic_s = time.monotonic() + DEFAULT_DEADLINE
        # What a handler sends by its context is checked, too.
        context.send_initial_metadata = self._check_and_send  # type: ignore[method-assign]

    def handler_ended(self, context: grpc.ServicerContext) -> None:
        """The handler has returned or raised, or an `Outlet` goes on in its place. Notes the code that it decided, and
        adds the trailers of the chassis to its own, the request id among them."""
        # A handler can set a code without raising, as the health service does.
        code = context.code()  # type: ignore[attr-defined]  # its stubs leave it out
        self.code = _OK if code is None else code if isinstance(code, grpc.StatusCode) else _UNKNOWN
        of_handler = context.trailing_metadata() or ()
        context.set_trailing_metadata((*of_handler, *self.trailers, (REQUEST_ID_KEY, self.request_id)))

    @property
    def enforced(self) -> bool:
        """Whether it would have been refused, had it been somebody's who may not make it."""
        return self.guard is not None and self.guard.enforced

    @property
    def peer(self) -> str:
        """The address that it came from, such as `ipv4:127.0.0.1:50000`; empty where it never reached a handler."""
        return "" if self.context is None else self.context.peer()

    @property
    def trace_id(self) -> str | None:
        """The id of the trace, 32 hexadecimal digits; None without one."""
        return None if self.traceparent is None else self.traceparent[3:35]

    @property
    def span_id(self) -> str | None:
        """The id of this call's span, 16 hexadecimal digits; None where it is not traced."""
        return None if self.traceparent is None or self.span is None else self.traceparent[36:52]

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
        """Adds to what the caller gets after the last reply, or with the error. For the chassis and transactions, whose
        few short trailers gRPC can send; those of a handler go to its context, and are checked."""
        self.trailers = (*self.trailers, (key, value))

    def set_trailer(self, key: str, value: str | bytes) -> None:
        """`add_trailer` in place of what has this key already."""
        self.trailers = (*[entry for entry in self.trailers if entry[0] != key], (key, value))

    def send_initial_metadata(self, *entries: tuple[str, str | bytes]) -> None:
        """Sends `entries` and the request id now, for what the caller should learn even if no reply follows. That is
        one more operation on the wire, and gRPC clients do not repeat a call that it has come back from. The first
        to send decides; whatever comes later is not sent. Raises ValueError where gRPC cannot send an entry, and
        ResponseTooLarge where they are too large."""
        if self._initial_metadata_sent or self.context is None:
            return
        with_id = ((REQUEST_ID_KEY, self.request_id), *entries)
        check_metadata("initial", with_id)
        with suppress(ValueError, grpc.RpcError):  # a stream has sent its first reply, or nobody listens any more
            self._send(with_id)

    def _check_and_send(self, initial_metadata: Metadata) -> None:
        check_metadata("initial", initial_metadata)
        self._send(initial_metadata)

    def _send(self, entries: Metadata) -> None:
        self._initial_metadata_sent = True
        type(self.context).send_initial_metadata(self.context, entries)  # type: ignore[union-attr, arg-type]

    def record(self, *, status_sent: bool, deadline_epoch_s: float, server_stopped: bool) -> None:
        """Notes how long the call took, and the code that its caller saw. `status_sent` says whether grpcio was given a
        status to send. The deadline is far in the future where there is none."""
        self.seconds = time.monotonic() - self.arrived_monotonic_s
        if self.idle_error and (self.code is None or not status_sent):
            self.code = grpc.StatusCode.DEADLINE_EXCEEDED
        elif not status_sent:
            self.code = self._code_without_status(deadline_epoch_s, server_stopped)
        elif self.code is None:
            # Without a handler, grpcio answers just one thing: that a unary call came without its request.
            self.code = grpc.StatusCode.UNIMPLEMENTED

    def _code_without_status(self, deadline_epoch_s: float, server_stopped: bool) -> grpc.StatusCode:
        now = time.time()
        arrived_epoch_s = now - self.seconds
        if deadline_epoch_s - (self.grpc_ended_epoch_s or now) <= tolerance_of(deadline_epoch_s - arrived_epoch_s):
            return grpc.StatusCode.DEADLINE_EXCEEDED
        return grpc.StatusCode.UNAVAILABLE if server_stopped else grpc.StatusCode.CANCELLED


def serving() -> Call | None:
    """The call that this thread serves; None outside of calls."""
    call = CURRENT.get(None)
    return call if isinstance(call, Call) else None


def in_transaction() -> bool:
    """Whether the call that this thread serves, if it serves one, carries a transaction across services."""
    call = serving()
    return call is not None and not STAGE_KEYS.isdisjoint(call.metadata)


def current() -> Call:
    """The call that this thread serves. Raises LookupError outside of calls."""
    if (call := serving()) is None:
        raise LookupError("no call is being served here")
    return call
