"""Calls that carry personal data, in all ways: they succeed, are refused, conflict, and meet careless handlers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from handfast.client import ServiceError, Suite
from handfast.users.v1.users_pb2 import CreateUserRequest, LookupUserRequest, User
from tests.people import new_id
from tests.redaction import contracts
from tests.redaction.samples import Sample, fill, invalid, valid
from tests.redaction.serve import CARELESS, WAYS
from tests.tracing.receiver import Span

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUOTING = "quote"
"""The careless handler whose error tells callers what they sent, as no real one does."""

METHODS = [method for method in contracts.METHODS if list(contracts.marked_fields(method.input_type))]
"""Those that can be sent a field with personal data."""


@dataclass
class Sent:
    """One call: what was in it, and how it ended."""

    method: str
    way: str
    request_id: str
    sample: Sample
    error: ServiceError | None

    @property
    def code(self) -> grpc.StatusCode:
        return self.error.status if self.error else grpc.StatusCode.OK


@dataclass
class Printed:
    """All that the suite printed, and what it was sent."""

    database: str
    calls: list[Sent] = field(default_factory=list)
    log: str = ""
    metrics: str = ""
    traces: str = ""
    spans: list[Span] = field(default_factory=list)

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines()]


class Caller:
    """Calls each method in all ways; each call fails or succeeds as that way should."""

    def __init__(self, suite: Suite, printed: Printed) -> None:
        self._suite, self._printed = suite, printed

    def call(self, method: MethodDescriptor) -> None:
        """Calls it in all ways but one, for which the database has to be prepared."""
        creates = method.name.startswith("Create")
        request, sample = self._request(method)
        self._send(method, "succeed", request, sample, grpc.StatusCode.OK)
        if creates:
            self._send(method, "again", request, sample, grpc.StatusCode.ALREADY_EXISTS)
            fill(request, None, {"user_id": new_id()})
            self._send(method, "email taken", request, sample, grpc.StatusCode.ALREADY_EXISTS)
        request, sample = self._request(method, invalid)
        self._send(method, "be invalid", request, sample, grpc.StatusCode.INVALID_ARGUMENT)
        if _reads(method):
            request, sample = self._request(method, exists=False)
            self._send(method, "find nothing", request, sample, grpc.StatusCode.NOT_FOUND)
        elif not creates:
            request, sample = self._request(method, etag="stale")
            self._send(method, "conflict", request, sample, grpc.StatusCode.ABORTED)
        for way in WAYS:
            request, sample = self._request(method)
            expected = {"fail": grpc.StatusCode.INTERNAL, QUOTING: grpc.StatusCode.INVALID_ARGUMENT}
            self._send(method, way, request, sample, expected.get(way, grpc.StatusCode.OK), careless=way)

    def be_refused_by_the_database(self, method: MethodDescriptor) -> None:
        if not _reads(method):
            self._send(method, "be refused", *self._request(method, exists=False))

    def _request(
        self,
        method: MethodDescriptor,
        make: Callable[[Sample, FieldDescriptor], Any] = valid,
        *,
        exists: bool = True,
        etag: str = "",
    ) -> tuple[Message, Sample]:
        """A request of a user of its own, who `exists` where the call is about one."""
        request, sample = GetMessageClass(method.input_type)(), Sample()
        user = User(user_id=new_id(), email=f"{sample.word()}@example.com")
        fill(request, partial(make, sample), {"user_id": user.user_id, "etag": etag})
        if exists and not method.name.startswith("Create"):
            if isinstance(request, LookupUserRequest) and make is valid:
                user.email = request.email
            self._suite.users.CreateUser(CreateUserRequest(user=user))
        return request, sample

    def _send(
        self,
        method: MethodDescriptor,
        way: str,
        request: Message,
        sample: Sample,
        expected: grpc.StatusCode | None = None,
        careless: str = "",
    ) -> None:
        stub = getattr(self._suite, method.full_name.split(".")[1])
        request_id = f"{method.full_name} {way}".replace(" ", "-")
        metadata = [("x-request-id", request_id), ("traceparent", TRACEPARENT)]
        metadata += [(CARELESS, careless)] * bool(careless)
        sent = Sent(method.name, way, request_id, sample, None)
        try:
            getattr(stub, method.name)(request, metadata=metadata)
        except ServiceError as error:
            sent.error = error
        self._printed.calls.append(sent)
        assert sent.code is expected if expected else sent.error, (method.name, way, sent.error)


def _reads(method: MethodDescriptor) -> bool:
    return method.name.startswith(("Get", "Lookup", "BatchGet", "List"))
