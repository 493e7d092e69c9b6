"""Calls between processes: what is sent can be lost, repeated, delayed, and overtaken by what was sent later.

A call is repeated only where gRPC or a client may do so: where it only reads, is a staged call, carries a request id,
or belongs to the protocol. Its handler runs once for each arrival, and the first reply to come back counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import greenlet
import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from handfast.accounts.v1 import accounts_pb2
from handfast.client import transaction_metadata
from handfast.client.errors import ServiceError
from handfast.preferences.v1 import preferences_pb2
from handfast.server.chassis.call import CURRENT, Call, Method, Pool
from handfast.server.chassis.data.idempotency import fingerprint
from handfast.server.chassis.errors.mapping import to_status
from handfast.server.transactions.participant.errors import CommittedChangeLost
from handfast.transactions.v1 import transactions_pb2
from handfast.users.v1 import users_pb2
from tests.simulation import bank
from tests.simulation.scheduler import SECOND, Process
from tests.simulation.transcript import in_words

if TYPE_CHECKING:
    from tests.simulation.world import World

TIMEOUT = 2.0
"""Seconds, where the caller says nothing."""
RESPONSES: dict[Method, Callable[[bytes], Any]] = {}
REQUESTS: dict[Method, Callable[[bytes], Any]] = {}
SERVICES: dict[str, dict[str, Method]] = {}
METHODS: dict[str, Method] = {}

_POOL = Pool("simulated", 1)
_ERRORS = {error.status: error for error in ServiceError.__subclasses__()}
_PROTOCOL = ("TransactionService", "ParticipantService", "LockService")
_OPEN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
)

_CONTRACTS = (users_pb2, preferences_pb2, accounts_pb2, transactions_pb2, bank)
for _file in (module.DESCRIPTOR for module in _CONTRACTS):
    for _service in _file.services_by_name.values():
        _methods = SERVICES.setdefault(_service.name, {})
        for _descriptor in _service.methods:
            _method = Method.of(_descriptor, _file.package.removesuffix(".v1"), _POOL)
            METHODS[_method.path] = _methods[_descriptor.name] = _method
            REQUESTS[_method] = message_factory.GetMessageClass(_descriptor.input_type).FromString
            RESPONSES[_method] = message_factory.GetMessageClass(_descriptor.output_type).FromString


class Context:
    """What a handler sees of gRPC."""

    def __init__(self, world: World, deadline: int) -> None:
        self._world, self._deadline = world, deadline

    def peer(self) -> str:
        return "simulated"

    def time_remaining(self) -> float:
        return (self._deadline - self._world.scheduler.now) / SECOND

    def send_initial_metadata(self, metadata: Any) -> None:
        """Nobody looks at it here."""


class Future:
    """The answer to a call, once there is one."""

    def __init__(self, world: World, caller: Process, name: str) -> None:
        self._world, self._caller, self.name = world, caller, name
        self._done = False
        self._callbacks: list[Callable[[Any], None]] = []
        self._waking: Callable[[], None] | None = None
        self._reply: Any = None
        self._error: ServiceError | None = None

    def settle(self, reply: Any, error: ServiceError | None, trailers: tuple[tuple[str, Any], ...] = ()) -> None:
        """Only the first answer counts."""
        if self._done:
            return
        self._done, self._reply, self._error, self._trailers = True, reply, error, trailers
        if self._world.transcript.on:
            self._world.log(
                self._caller.name, f"is told {'OK' if error is None else error.code().name} for {self.name}"
            )
        if self._waking:
            self._waking()
        for callback in self._callbacks if self._caller.alive else ():
            callback(self)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def done(self) -> bool:
        return self._done

    def fail(self, code: grpc.StatusCode) -> None:
        """It is not the server that says so."""
        if not self._done:
            self.settle(None, _ERRORS[code]("the network"))

    def cancel(self) -> None:
        """The caller waits no longer; the call goes on, as one does whose cancellation comes too late."""

    def result(self) -> Any:
        while not self._done:
            self._waking = self._world.scheduler.waker()
            self._world.scheduler.park()
        if self._error is not None:
            raise self._error
        return self._reply

    def trailing_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self._trailers


class Channel:
    """What a process has the stubs of a service on: it leads to one of the `replicas`."""

    def __init__(self, world: World, caller: Process, replicas: str) -> None:
        self._world, self._caller, self._replicas = world, caller, replicas

    def unary_unary(self, path: str, *_: Any, **__: Any) -> StubMethod:
        return StubMethod(self._world, self._caller, METHODS[path], self._replicas)


class StubMethod:
    def __init__(self, world: World, caller: Process, method: Method, replicas: str) -> None:
        self._world, self._caller, self.method, self._replicas = world, caller, method, replicas

    def __call__(self, request: Message, *, timeout: float | None = None, metadata: Any = ()) -> Any:
        return self.future(request, timeout=timeout, metadata=metadata).result()

    def future(self, request: Message, *, timeout: float | None = None, metadata: Any = ()) -> Future:
        if not self._caller.alive:  # which its code may go on after, to clean up
            raise greenlet.GreenletExit
        call = CURRENT.get(None)
        remaining = None if call is None else call.remaining()
        seconds = min(TIMEOUT if timeout is None else timeout, TIMEOUT if remaining is None else remaining)
        seconds = max(seconds, 0.001)
        return self._world.network.send(self._caller, self._replicas, self.method, request, seconds, dict(metadata))


class Network:
    def __init__(self, world: World) -> None:
        self._world = world
        self._count = 0

    def send(
        self, caller: Process, replicas: str, method: Method, request: Message, timeout: float, metadata: dict[str, str]
    ) -> Future:
        world, faults = self._world, self._world.faults
        self._count += 1
        name = f"{method.name} #{self._count}"
        transaction_id = metadata.get(transaction_metadata.TRANSACTION_ID, "")
        number = int(metadata.get(transaction_metadata.OPERATION, 0))
        if transaction_id:
            name += f" (operation {number} of {transaction_id})" if number else f" (of {transaction_id})"
        future = Future(world, caller, name)
        if number:
            world.oracle.sent(transaction_id, replicas, number, fingerprint(method.path, request), request)
        if world.transcript.on:
            world.log(caller.name, f"sends {name} to {replicas}: {in_words(request)}")
        data = request.SerializeToString()
        world.scheduler.after(
            int(timeout * SECOND),
            lambda: future.fail(grpc.StatusCode.DEADLINE_EXCEEDED),
        )
        repeatable = bool(
            transaction_id
            or method.service.rpartition(".")[2] in _PROTOCOL
            or method.name.startswith(("Get", "List", "Lookup", "BatchGet"))
            or getattr(request, "request_id", "")
        )
        copies = 1
        if repeatable and faults.strikes("repeated"):
            copies = 2
            world.log("network", f"repeats {name}")
        for copy in range(copies):
            if faults.strikes("lost"):
                world.log("network", f"loses {name}")
                self._may_notice(future)
            else:
                late = copy > 0 and world.rng.random() < 0.5  # a client that sends again takes its time
                delay = world.rng.randrange(2 * SECOND) if late else faults.delay()
                world.scheduler.after(delay, lambda: self._arrive(future, replicas, method, data, timeout, metadata))
        return future

    def _may_notice(self, future: Future) -> None:
        """A caller whose connection broke learns it at once, or never."""
        if self._world.rng.random() < 0.5:
            self._world.scheduler.after(self._world.faults.delay(), lambda: future.fail(grpc.StatusCode.UNAVAILABLE))

    def _arrive(
        self, future: Future, replicas: str, method: Method, data: bytes, timeout: float, metadata: dict[str, str]
    ) -> None:
        world = self._world
        server = world.rng.choice(world.servers[replicas])
        handler = server.handlers.get(method) if server.process.alive else None
        if handler is None:
            world.log("network", f"{future.name} finds {server.process.name} down")
            future.fail(grpc.StatusCode.UNAVAILABLE)
            return
        request = REQUESTS[method](data)
        process = server.process

        def serve() -> None:
            call = Call(method, method.path, tuple(metadata.items()))
            call.request_id = "simulated"
            context: Any = Context(world, world.scheduler.now + int(timeout * SECOND))
            call.begin(context)
            CURRENT.set(call)
            reply, error = b"", None
            world.log(process.name, f"receives {future.name}")
            try:
                reply = handler(request, context).SerializeToString()
            except Exception as raised:
                error = to_status(raised, call)
                if isinstance(raised, CommittedChangeLost):
                    world.found_lost(
                        raised.values["transaction_id"], f"{process.name} answers {future.name}: {raised!r}"
                    )
                elif error.code == grpc.StatusCode.INTERNAL.value[0]:
                    world.log(process.name, str(call.log.get("exception", "")))
                    world.fail(f"{process.name} cannot answer {future.name}: {raised!r}")
            self._answer(future, process, method, reply, error, call.trailers)

        world.scheduler.spawn(process, serve, request if not metadata else None)
        # A crash cuts the connections of the calls that are being served.
        server.callers.append(future)

    def _answer(
        self, future: Future, server: Process, method: Method, reply: bytes, status: Status | None, trailers: Any
    ) -> None:
        world = self._world
        if world.transcript.on:
            answer = f"OK {in_words(RESPONSES[method](reply))}" if status is None else _refusal(status)
            world.log(server.name, f"answers {future.name}: {answer}")
        if world.faults.strikes("reply_lost"):
            world.log("network", f"loses the answer to {future.name}")
            self._may_notice(future)
            return

        def arrive() -> None:
            if status is None:
                future.settle(RESPONSES[method](reply), None, trailers)
            else:
                error = _ERRORS[_code(status)](status.message, status_proto=status, trailing_metadata=trailers)
                future.settle(None, error)

        world.scheduler.after(world.faults.delay(), arrive)

    def cut(self, future: Future) -> None:
        self._may_notice(future)


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _code(status: Status) -> grpc.StatusCode:
    return _CODES[status.code]


def _refusal(status: Status) -> str:
    return f"{_code(status).name}: {status.message}"


def definite(error: ServiceError) -> bool:
    """Whether a server refused, so that this try of the call had no effect. Anything else leaves that open."""
    return error.status_proto is not None and error.code() not in _OPEN
