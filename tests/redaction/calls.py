"""Calls that carry personal data, in all ways: they succeed, are refused, conflict, and meet careless handlers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from handfast.client import ServiceError, Suite
from handfast.users.v1.users_pb2 import CreateUserRequest, User
from tests.people import new_id
from tests.redaction import contracts, samples
from tests.redaction.samples import Sample
from tests.redaction.serve import CARELESS, WAYS

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUOTING = "quote"
"""The careless handler whose error tells callers what they sent, as no real one does."""


@dataclass(frozen=True)
class Case:
    """A method that can be sent a field with personal data."""

    method: MethodDescriptor
    path: contracts.Path
    field: FieldDescriptor

    def __str__(self) -> str:
        return f"{self.method.name} {'.'.join(self.path)}"

    @property
    def creates(self) -> bool:
        return self.method.name.startswith("Create")

    @property
    def reads(self) -> bool:
        return self.method.name.startswith(("Get", "Lookup", "BatchGet", "List"))


CASES = [
    Case(method, path, field)
    for method in contracts.METHODS
    for path, field in contracts.marked_paths(method.input_type)
]


@dataclass
class Sent:
    """One call: what was in it, and how it ended."""

    way: str
    request_id: str
    sample: Sample
    error: ServiceError | None


@dataclass
class Printed:
    """All that the suite printed, and what it was sent."""

    database: str
    calls: dict[str, list[Sent]] = field(default_factory=dict)
    log: str = ""
    metrics: str = ""

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines()]


class Caller:
    """Sends each case in all ways; each call fails or succeeds as that way should."""

    def __init__(self, suite: Suite, printed: Printed) -> None:
        self._suite, self._printed = suite, printed

    def call(self, case: Case) -> None:
        """Sends it in all ways but one, for which the database has to be prepared."""
        self.succeed(case)
        self.be_invalid(case)
        self.conflict(case)
        self.meet_careless_handlers(case)

    def succeed(self, case: Case) -> None:
        sample = Sample()
        request = self._request(case, sample, samples.valid(sample, case.field))
        assert self._send(case, "succeed", request, sample) is None
        if case.creates:
            assert self._code(case, "again", request, sample) is grpc.StatusCode.ALREADY_EXISTS
            other = new_id()
            for path in samples.places(case.method.input_type, "user_id"):
                samples.put(request, path, other)
            assert self._code(case, "email taken", request, sample) is grpc.StatusCode.ALREADY_EXISTS

    def be_invalid(self, case: Case) -> None:
        sample = Sample()
        request = self._request(case, sample, samples.invalid(sample, case.field))
        assert self._code(case, "be invalid", request, sample) is grpc.StatusCode.INVALID_ARGUMENT

    def conflict(self, case: Case) -> None:
        sample = Sample()
        request = self._request(case, sample, samples.valid(sample, case.field), exists=not case.reads)
        for path in samples.places(case.method.input_type, "etag"):
            samples.put(request, path, "stale")
        if not case.creates:  # which were sent again instead
            code = self._code(case, "conflict", request, sample)
            assert code is (grpc.StatusCode.NOT_FOUND if case.reads else grpc.StatusCode.ABORTED)

    def meet_careless_handlers(self, case: Case) -> None:
        for way in WAYS:
            sample = Sample()
            request = self._request(case, sample, samples.valid(sample, case.field))
            error = self._send(case, way, request, sample, careless=way)
            expected = {"fail": grpc.StatusCode.INTERNAL, "quote": grpc.StatusCode.INVALID_ARGUMENT}.get(way)
            assert (error.status if error else None) is expected, error

    def be_refused_by_the_database(self, case: Case) -> None:
        if not case.reads:
            sample = Sample()
            request = self._request(case, sample, samples.valid(sample, case.field), exists=False)
            assert self._send(case, "be refused", request, sample) is not None

    def _request(self, case: Case, sample: Sample, value: Any, *, exists: bool = True) -> Any:
        """A request of a user of its own, who `exists` where the call is about one."""
        request = GetMessageClass(case.method.input_type)()
        user = User(user_id=new_id(), email=f"{sample.word()}@example.com")
        for path in samples.places(case.method.input_type, "user_id"):
            samples.put(request, path, user.user_id)
        if case.creates:
            for path in samples.places(case.method.input_type, "email"):
                samples.put(request, path, user.email)
        samples.put(request, case.path, value)
        if exists and not case.creates:
            if case.reads and isinstance(value, str) and "@example.com" in value:
                user.email = value
            self._suite.users.CreateUser(CreateUserRequest(user=user))
        return request

    def _code(self, case: Case, way: str, request: Any, sample: Sample) -> grpc.StatusCode | None:
        error = self._send(case, way, request, sample)
        return error.status if error else None

    def _send(self, case: Case, way: str, request: Any, sample: Sample, careless: str = "") -> ServiceError | None:
        stub = getattr(self._suite, case.method.full_name.split(".")[1])
        request_id = f"{case} {way}".replace(" ", "-")
        metadata = [("x-request-id", request_id), ("traceparent", TRACEPARENT)]
        metadata += [(CARELESS, careless)] * bool(careless)
        error = None
        try:
            getattr(stub, case.method.name)(request, metadata=metadata)
        except ServiceError as raised:
            error = raised
        self._printed.calls.setdefault(str(case), []).append(Sent(way, request_id, sample, error))
        return error
