"""Participants and a coordinator that do what a test tells them, for faults that real ones do not have. They keep what
the protocol needs: revisions, numbers of operations, and decisions that are written once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_status import rpc_status

from handfast.client.transaction_metadata import OPERATION, READS, STAGED, TRANSACTION_ID
from handfast.client.transactions.state import ABSENT
from handfast.preferences.v1 import preferences_pb2, preferences_pb2_grpc
from handfast.server.chassis.clock import now, timestamp
from handfast.server.chassis.ids import new_id
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1 import transactions_pb2_grpc as pb_grpc
from handfast.users.v1 import users_pb2, users_pb2_grpc
from tests.client.backend import error_info, retry_info, rich_status


@dataclass
class Received:
    method: str
    request: Any
    metadata: dict[str, str | bytes]
    time_remaining: float


Hook = Callable[[str, grpc.ServicerContext], None]
"""What a test does with a call, which it is told by the method's name: it may abort or delay it."""


def nothing(method: str, context: grpc.ServicerContext) -> None:
    pass


@dataclass
class _Server:
    before: Hook = nothing
    after: Hook = nothing
    """When the call has had its effect, and its caller has no reply yet."""
    received: list[Received] = field(default_factory=list)
    address: str = ""

    def _receive(self, method: str, request: Any, context: grpc.ServicerContext) -> dict[str, Any]:
        metadata = dict(context.invocation_metadata())
        self.received.append(Received(method, request, metadata, context.time_remaining()))
        self.before(method, context)
        if not context.is_active():  # its caller has given up meanwhile
            context.abort(grpc.StatusCode.CANCELLED, "cancelled")
        return metadata

    def methods(self) -> list[str]:
        return [each.method for each in self.received]


def refuse(
    context: grpc.ServicerContext, code: grpc.StatusCode, reason: str, *, again: float | None = None, **metadata: str
) -> None:
    details = [error_info(reason, **metadata)]
    if again is not None:
        details.append(retry_info(0, int(again * 1e9)))
    context.abort_with_status(rpc_status.to_status(rich_status(code, "on purpose", *details)))


@dataclass
class Participant(_Server, pb_grpc.LockServiceServicer):
    """`kind` is that of its resources. It has no committed state but their revisions."""

    kind: str = ""
    confirms_as: str | None = None
    tells_reads: bool = True
    revisions: dict[str, str] = field(default_factory=dict)
    staged: dict[str, list[int]] = field(default_factory=dict)

    def stage(self, method: str, request: Any, context: grpc.ServicerContext, reads: Iterable[pb.Read]) -> None:
        metadata = self._receive(method, request, context)
        transaction_id, number = metadata.get(TRANSACTION_ID), int(metadata.get(OPERATION, 0))
        if transaction_id is None:
            return
        operations = self.staged.setdefault(transaction_id, [])
        if number == len(operations) + 1:
            operations.append(number)
        elif number not in operations:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "OPERATION_OUT_OF_ORDER")
        for read in reads:
            if method == "LockReads" and self.revision(read.resource) != read.revision:
                refuse(context, grpc.StatusCode.ABORTED, "READ_CHANGED", again=0.0)
        self.after(method, context)
        held = [pb.Read(resource=each.resource, revision=each.revision, held=True) for each in reads]
        trailers: list[tuple[str, str | bytes]] = []
        if self.tells_reads:
            trailers.append((READS, pb.ReadSet(reads=held).SerializeToString()))
        if self.confirms_as is not None:
            trailers.append((STAGED, self.confirms_as))
        context.set_trailing_metadata(tuple(trailers))

    def read(self, method: str, request: Any, context: grpc.ServicerContext, key: str) -> bool:
        """Whether there is such a resource."""
        metadata = self._receive(method, request, context)
        if TRANSACTION_ID in metadata and self.tells_reads:
            context.set_trailing_metadata(((READS, pb.ReadSet(reads=[self.seen(key)]).SerializeToString()),))
        self.after(method, context)
        return self.revision(f"{self.kind}/{key}") != ABSENT

    def seen(self, key: str) -> pb.Read:
        resource = f"{self.kind}/{key}"
        return pb.Read(resource=resource, revision=self.revision(resource))

    def revision(self, resource: str) -> str:
        return self.revisions.get(resource, ABSENT)

    def numbers(self) -> list[tuple[str, str]]:
        """The staged calls that came, with their numbers."""
        calls = [(each.method, each.metadata.get(OPERATION)) for each in self.received]
        return [(method, str(number)) for method, number in calls if number is not None]

    # The LockService

    def LockReads(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.stage("LockReads", request, context, request.reads)
        return pb.LockReadsResponse()

    def LockResources(self, request: Any, context: grpc.ServicerContext) -> Any:
        named = [*request.to_read, *request.to_change]
        self.stage(
            "LockResources", request, context, [pb.Read(resource=each, revision=self.revision(each)) for each in named]
        )
        return pb.LockResourcesResponse()

    def CompareReads(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._receive("CompareReads", request, context)
        changed = [each.resource for each in request.reads if self.revision(each.resource) != each.revision]
        return pb.CompareReadsResponse(changed=changed)


class Users(Participant, users_pb2_grpc.UserServiceServicer):
    def UpdateUser(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.stage("UpdateUser", request, context, [self.seen(request.user.user_id)])
        return users_pb2.UpdateUserResponse(user=request.user)

    def GetUser(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not self.read("GetUser", request, context, request.user_id):
            context.abort(grpc.StatusCode.NOT_FOUND, "There is none.")
        return users_pb2.GetUserResponse(user=users_pb2.User(user_id=request.user_id))


class Preferences(Participant, preferences_pb2_grpc.PreferencesServiceServicer):
    def UpdatePreferences(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.stage("UpdatePreferences", request, context, [self.seen(request.preferences.user_id)])
        return preferences_pb2.UpdatePreferencesResponse(preferences=request.preferences)

    def GetPreferences(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.read("GetPreferences", request, context, request.user_id)
        return preferences_pb2.GetPreferencesResponse(preferences=preferences_pb2.Preferences(user_id=request.user_id))


@dataclass
class Coordinator(_Server, pb_grpc.TransactionServiceServicer):
    decisions: dict[str, dict[str, int] | None] = field(default_factory=dict)
    """Of each decided transaction the operations that are committed; None where it was rolled back."""
    _deciding: threading.Lock = field(default_factory=threading.Lock)

    def BeginTransaction(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._receive("BeginTransaction", request, context)
        deadline = timestamp(now() + request.timeout.ToMicroseconds())
        minted = [pb.Transaction(transaction_id=new_id(), deadline=deadline) for _ in range(1 + request.further)]
        return pb.BeginTransactionResponse(transaction=minted[0], further=minted[1:])

    def CommitTransaction(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._receive("CommitTransaction", request, context)
        asked = {each.participant: each.operation_count for each in request.branches}
        if self._decide(request.transaction_id, asked) is None:
            refuse(context, grpc.StatusCode.ABORTED, "TRANSACTION_ABORTED")
        self.after("CommitTransaction", context)
        return pb.CommitTransactionResponse()

    def RollbackTransaction(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._receive("RollbackTransaction", request, context)
        if self._decide(request.transaction_id, None) is not None:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "TRANSACTION_COMMITTED")
        self.after("RollbackTransaction", context)
        return pb.RollbackTransactionResponse()

    def _decide(self, transaction_id: str, asked: dict[str, int] | None) -> dict[str, int] | None:
        with self._deciding:
            return self.decisions.setdefault(transaction_id, asked)


@dataclass
class Fakes:
    users: Users
    preferences: Preferences
    coordinator: Coordinator

    def addresses(self) -> dict[str, Any]:
        return {
            "users": self.users.address,
            "preferences": self.preferences.address,
            "accounts": self.coordinator.address,
        }


@contextmanager
def fakes() -> Iterator[Fakes]:
    # They have not all the methods of their contracts.
    users = Users(  # type: ignore[abstract]
        kind="users", confirms_as="users", revisions={"users/ada": "u1", "users/bob": "u2"}
    )
    preferences = Preferences(  # type: ignore[abstract]
        kind="preferences", confirms_as="preferences", revisions={"preferences/ada": "p1"}
    )
    coordinator = Coordinator()  # type: ignore[abstract]
    servers = [grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)]) for _ in range(3)]
    users_pb2_grpc.add_UserServiceServicer_to_server(users, servers[0])
    preferences_pb2_grpc.add_PreferencesServiceServicer_to_server(preferences, servers[1])
    pb_grpc.add_TransactionServiceServicer_to_server(coordinator, servers[2])
    for server, fake in zip(servers, (users, preferences, coordinator), strict=True):
        if isinstance(fake, Participant):
            pb_grpc.add_LockServiceServicer_to_server(fake, server)
        fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
    try:
        yield Fakes(users, preferences, coordinator)
    finally:
        for server in servers:
            server.stop(0).wait()
