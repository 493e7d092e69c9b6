"""One method, or one server, under fire: with odd requests, paths or headers. A failure ends in the smallest call that
hypothesis finds to show it.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from handfast.client import ServiceError
from tests import http2
from tests.fuzz import readback, refusals, wire
from tests.fuzz.calls import REQUEST_ID, Call, Metadata, Outcome
from tests.fuzz.messages import messages, new
from tests.fuzz.metadata import metadata, paths
from tests.fuzz.methods import SERVICES, Method
from tests.fuzz.plausible import REPEATED, plausible
from tests.fuzz.target import Target

LIMIT = 16 * 1024 * 1024
"""Bytes from which grpcio itself refuses, without details."""


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,  # the machine may be busy
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )


def request(target: Target, method: Method, examples: int, seed_: str) -> None:
    """Calls a method with all kinds of requests, and looks at what comes back."""
    how_many = st.sampled_from((*[1] * 14, 0, 2)) if not method.descriptor.client_streaming else st.integers(0, 4)

    @seed(f"{seed_}/{method}")
    @_settings(examples)
    @given(
        sent=how_many.flatmap(
            lambda count: st.lists(
                st.tuples(messages(method.request, plausible), wire.damages(method.request)),
                min_size=count,
                max_size=count,
            )
        ),
        metadata=metadata,
    )
    def attacked(sent: list[tuple[Message, wire.Damage]], metadata: Metadata) -> None:
        requests = [damage.do(target.world.filled_in(message).SerializeToString()) for message, damage in sent]
        if any(len(request) > LIMIT for request in requests):
            return
        call = Call(method.path, requests, target.world.metadata(metadata), method.held)
        outcome = target.send(method.server, call)
        with _explained(method.server, call, outcome):
            _check(target, method, call, outcome)

    target.world.restore()
    attacked()
    target.world.release()
    target.check_health()


@contextlib.contextmanager
def _explained(server: str, call: Call, outcome: Outcome) -> Iterator[None]:
    """Says what was sent and what came back, if that is wrong."""
    try:
        yield
    except (AssertionError, ServiceError) as error:
        error.add_note(f"{server}: {call}\n{outcome}")
        raise


def _check(target: Target, method: Method, call: Call, outcome: Outcome) -> None:
    request = _parsed(method, call.requests[0]) if call.requests else None
    if outcome.code is grpc.StatusCode.CANCELLED and method.held and outcome.replies:
        return
    if outcome.code is grpc.StatusCode.OK:
        for reply in outcome.replies:
            _response(method, reply)
        if request is not None and "handfast-staged" not in dict(outcome.trailers) and not _was_repeated(request):
            readback.check(target.suite, request, _response(method, outcome.replies[0]))
        if method.name.startswith("Delete"):
            target.world.restore()
    elif not call.requests and not method.descriptor.client_streaming:
        # grpcio's own answer to a unary call without its request; no handler is asked.
        assert outcome.code is grpc.StatusCode.UNIMPLEMENTED, outcome.code
    else:
        refusals.check(call, request, outcome)


def _parsed(method: Method, request: bytes) -> Message | None:
    message = new(method.request)
    try:
        message.ParseFromString(request)
    except DecodeError:
        return None
    return message


def _response(method: Method, reply: bytes) -> Message:
    message = new(method.descriptor.output_type)
    message.ParseFromString(reply)
    return message


def _was_repeated(request: Any) -> bool:
    """Whether it may be a repeat, which is answered as the first was, whatever happened since."""
    return getattr(request, "request_id", "") == REPEATED


def path(target: Target, server: str, examples: int, seed_: str) -> None:
    """Calls methods that nobody serves."""

    @seed(f"{seed_}/{server}/paths")
    @_settings(examples)
    @given(path=paths, requests=st.lists(st.binary(max_size=40), max_size=2), metadata=metadata)
    def attacked(path: str, requests: list[bytes], metadata: Metadata) -> None:
        call = Call(path, requests, target.world.metadata(metadata))
        outcome = target.send(server, call)
        with _explained(server, call, outcome):
            assert outcome.code is grpc.StatusCode.UNIMPLEMENTED, outcome.code
            refusals.check(call, None, outcome)

    attacked()
    target.check_health()


def headers(target: Target, server: str, examples: int, seed_: str) -> None:
    """Calls with header bytes that gRPC clients do not send, and looks in the log for what became of it."""
    service = SERVICES[server][0]
    names = st.sampled_from(
        (*[b"traceparent", b"tracestate", b"handfast-first-attempt", b"x-other"] * 3, b"x-other-bin")
    )
    sent: dict[tuple[str, str, str], list[tuple[bytes, bytes]]] = {}
    earlier = target.process.errors.stat().st_size
    values = st.binary(max_size=20) | st.sampled_from((b"\0", b"\r\n", "é".encode(), b"\xff", b" a ", b"a\tb"))

    @seed(f"{seed_}/{server}/headers")
    @_settings(examples)
    @given(
        method=st.sampled_from([each.name for each in service.methods]),
        headers=st.lists(st.tuples(names, values), max_size=3),
    )
    def attacked(method: str, headers: list[tuple[bytes, bytes]]) -> None:
        request_id = str(uuid.uuid4())
        called = f"/{service.full_name}/{method}"
        all_headers = [*headers, (REQUEST_ID.encode(), request_id.encode())]
        sent[server, request_id, called] = headers
        http2.send(target.addresses[server], called.encode(), b"\x0a\x03ada", all_headers)

    attacked()
    target.check_health()
    ended = target.logged(since=earlier)
    assert sent.keys() & ended.keys(), "no call came through"  # what grpcio refuses by itself leaves no line
    for call, headers in sent.items():
        codes = ended.get(call, [])
        assert not {"Internal", "Unknown"}.intersection(codes), f"{call} with {headers}: {codes}"
