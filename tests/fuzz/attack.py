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
from handfast.server.chassis.security.permission import SELF
from tests import http2
from tests.fuzz import callers, readback, refusals, wire
from tests.fuzz.callers import ADMIN, Caller
from tests.fuzz.calls import REQUEST_ID, Call, Metadata, Outcome
from tests.fuzz.messages import messages, new
from tests.fuzz.metadata import metadata, paths
from tests.fuzz.methods import SERVICES, Method
from tests.fuzz.plausible import REPEATED, plausible
from tests.fuzz.target import Target

LIMIT = 8 * 1024 * 1024
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
    """Calls a method with all kinds of requests, as those who may call it, and looks at what comes back."""

    @seed(f"{seed_}/{method}")
    @_settings(examples)
    @given(caller=callers.permitted(method), sent=_sent(method), metadata=metadata)
    def attacked(caller: Caller, sent: Sent, metadata: Metadata) -> None:
        _call(target, method, caller, sent, metadata)

    target.world.restore()
    attacked()
    target.world.release()
    target.check_health()


def intruders(target: Target, method: Method, examples: int, seed_: str) -> None:
    """Calls a method as those who may not. All of them are refused for that, and nothing changes."""

    @seed(f"{seed_}/{method}/intruders")
    @_settings(examples)
    @given(caller=callers.intruders(method), sent=_sent(method), metadata=metadata)
    def attacked(caller: Caller, sent: Sent, metadata: Metadata) -> None:
        _call(target, method, caller, sent, metadata)

    target.world.restore()
    target.world.release()
    with target.world.unchanged():
        attacked()


Sent = list[tuple[Message, wire.Damage]]


def _sent(method: Method) -> st.SearchStrategy[Sent]:
    """What is sent in a call: mostly one request."""
    how_many = st.sampled_from((*[1] * 14, 0, 2)) if not method.descriptor.client_streaming else st.integers(0, 4)
    one = st.tuples(messages(method.request, plausible), wire.damages(method.request))
    return how_many.flatmap(lambda count: st.lists(one, min_size=count, max_size=count))


def _call(target: Target, method: Method, caller: Caller, sent: Sent, metadata: Metadata) -> None:
    requests = [damage.do(target.world.filled_in(message, caller).SerializeToString()) for message, damage in sent]
    if any(len(request) > LIMIT for request in requests):
        return
    call = Call(method.path, requests, target.world.metadata(metadata, caller), method.held)
    outcome = target.send(method.server, call)
    with _explained(method.server, caller, call, outcome):
        _check(target, method, caller, call, outcome)


@contextlib.contextmanager
def _explained(server: str, caller: Caller, call: Call, outcome: Outcome) -> Iterator[None]:
    """Says what was sent and what came back, if that is wrong."""
    try:
        yield
    except (AssertionError, ServiceError) as error:
        error.add_note(f"{server}: {caller.name}: {call}\n{outcome}")
        raise


def _check(target: Target, method: Method, caller: Caller, call: Call, outcome: Outcome) -> None:
    request = _parsed(method, call.requests[0]) if call.requests else None
    refused = callers.refused_with(caller, method, call, request)
    if outcome.code is grpc.StatusCode.CANCELLED and method.held and outcome.replies:
        return
    if outcome.code is grpc.StatusCode.OK and not refused:
        callers.check_owner(caller, target.world.owners, method, call, request)
        for reply in outcome.replies:
            _response(method, reply)
        if request is not None and "handfast-staged" not in dict(outcome.trailers) and not _was_repeated(request):
            readback.check(target.suite, request, _response(method, outcome.replies[0]))
        if method.name.startswith("Delete"):
            target.world.restore()
    elif outcome.status is None and not call.requests and not method.descriptor.client_streaming:
        # grpcio's own answer to a unary call without its request, where nothing of its headers was refused before.
        assert outcome.code is grpc.StatusCode.UNIMPLEMENTED, outcome.code
        assert not refused or SELF in caller.scopes  # for what is one's own, the request is looked at
    else:
        refusals.check(call, request, outcome)
        callers.check_refused(caller, refused, outcome)


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
    @given(caller=callers.anybody, path=paths, requests=st.lists(st.binary(max_size=40), max_size=2), metadata=metadata)
    def attacked(caller: Caller, path: str, requests: list[bytes], metadata: Metadata) -> None:
        call = Call(path, requests, target.world.metadata(metadata, caller))
        outcome = target.send(server, call)
        with _explained(server, caller, call, outcome):
            refused = callers.refused_with(caller, None, call, None)
            assert refused or outcome.code is grpc.StatusCode.UNIMPLEMENTED, outcome.code
            callers.check_refused(caller, refused, outcome)
            refusals.check(call, None, outcome)

    attacked()
    target.check_health()


def headers(target: Target, server: str, examples: int, seed_: str) -> None:
    """Calls with header bytes that gRPC clients do not send, and looks in the log for what became of it."""
    service = SERVICES[server][0]
    names = st.sampled_from(
        (*[b"traceparent", b"tracestate", b"handfast-first-attempt", b"x-other"] * 3, b"x-other-bin")
    )
    sent: dict[tuple[str, str, str], tuple[list[bytes], list[tuple[bytes, bytes]]]] = {}
    earlier = target.process.errors.stat().st_size
    values = st.binary(max_size=20) | st.sampled_from((b"\0", b"\r\n", "é".encode(), b"\xff", b" a ", b"a\tb"))
    good = str(ADMIN.metadata[0][1]).encode()
    bad = st.lists(values | values.map(lambda junk: good + junk) | values.map(lambda junk: junk + good), max_size=2)

    @seed(f"{seed_}/{server}/headers")
    @_settings(examples)
    @given(
        method=st.sampled_from([each.name for each in service.methods]),
        authorizations=st.sampled_from((True, True, False)).flatmap(
            lambda is_good: st.just([good]) if is_good else bad
        ),
        headers=st.lists(st.tuples(names, values), max_size=3),
    )
    def attacked(method: str, authorizations: list[bytes], headers: list[tuple[bytes, bytes]]) -> None:
        request_id = str(uuid.uuid4())
        called = f"/{service.full_name}/{method}"
        sent[server, request_id, called] = authorizations, headers
        headers = [*headers, *((b"authorization", each) for each in authorizations)]
        headers.append((REQUEST_ID.encode(), request_id.encode()))
        http2.send(target.addresses[server], called.encode(), b"\x0a\x03ada", headers)

    attacked()
    target.check_health()
    ended = target.logged(since=earlier)
    assert sent.keys() & ended.keys(), "no call came through"  # what grpcio refuses by itself leaves no line
    for call, (authorizations, headers) in sent.items():
        codes = set(ended.get(call, []))
        what = f"{call} with {authorizations} and {headers}: {codes}"
        assert not {"Internal", "Unknown"} & codes, what
        if authorizations == [good]:
            assert "Unauthenticated" not in codes, what
        elif [each.strip(b" ") for each in authorizations] != [good]:
            assert codes <= {"Unauthenticated", "Canceled"}, what
