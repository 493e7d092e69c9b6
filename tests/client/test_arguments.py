"""What cannot be a timeout, a request, metadata or credentials is refused before anything is sent, by a TypeError or a
ValueError that says what was expected."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import grpc
import pytest

from handfast.client import DeadlineExceeded, aio, channel, connect
from handfast.users.v1.users_pb2 import GetUserRequest, GetUserResponse, UpdateUserRequest
from handfast.users.v1.users_pb2_grpc import UserServiceStub

from .backend import WITHOUT_CONTRACT, Backend

OPENERS: dict[str, Callable[..., Any]] = {
    "connect": connect,
    "channel": lambda **options: channel("localhost:1", **options),
    "aio.connect": aio.connect,
    "aio.channel": lambda **options: aio.channel("localhost:1", **options),
}


def sync(backend: Backend, method: str, request: Any, **options: Any) -> Any:
    with channel(backend.address) as opened:
        return getattr(UserServiceStub(opened), method)(request, **options)


def future(backend: Backend, method: str, request: Any, **options: Any) -> Any:
    with channel(backend.address) as opened:
        return getattr(UserServiceStub(opened), method).future(request, **options).result()


def asynchronous(backend: Backend, method: str, request: Any, **options: Any) -> Any:
    async def call() -> Any:
        async with aio.channel(backend.address) as opened:
            return await getattr(UserServiceStub(opened), method)(request, **options)

    return asyncio.run(call())


each_opener = pytest.mark.parametrize("opener", OPENERS)
each_way = pytest.mark.parametrize("way", [sync, future, asynchronous])

NO_NUMBERS = [(True, "bool"), ("5", "str"), (b"5", "bytes"), (timedelta(seconds=5), "timedelta"), ([5], "list")]
NO_TIMES = [float("nan"), float("inf"), 1e10, 10**400]


def open_and_close(opener: str, **options: Any) -> None:
    async def run() -> None:
        opened = OPENERS[opener](**options)
        closed = opened.close()
        if closed is not None:
            await closed

    asyncio.run(run())


@each_opener
@pytest.mark.parametrize(("timeout", "kind"), [*NO_NUMBERS, (None, "NoneType")])
def test_a_timeout_that_is_no_number_is_refused(opener: str, timeout: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"^timeout: must be a number of seconds, not {kind}$"):
        open_and_close(opener, timeout=timeout)


@each_opener
@pytest.mark.parametrize("timeout", [*NO_TIMES, 0, -1.0, float("-inf")])
def test_a_timeout_that_is_no_time_is_refused(opener: str, timeout: float) -> None:
    with pytest.raises(ValueError, match=r"^timeout: must be (a number of|more than 0) seconds, .*not "):
        open_and_close(opener, timeout=timeout)


@each_opener
@pytest.mark.parametrize("timeout", [1, 0.5, Fraction(1, 3), 1e9])
def test_any_number_of_seconds_is_taken(opener: str, timeout: Any) -> None:
    open_and_close(opener, timeout=timeout)


@each_way
@pytest.mark.parametrize(("timeout", "kind"), NO_NUMBERS)
def test_a_call_with_a_timeout_that_is_no_number_is_refused(
    backend: Backend, way: Any, timeout: Any, kind: str
) -> None:
    with pytest.raises(TypeError, match=rf"^timeout: must be a number of seconds, not {kind}$"):
        way(backend, "GetUser", GetUserRequest(), timeout=timeout)
    assert backend.received == []


@each_way
@pytest.mark.parametrize("timeout", NO_TIMES)
def test_a_call_with_a_timeout_that_is_no_time_is_refused(backend: Backend, way: Any, timeout: float) -> None:
    with pytest.raises(ValueError, match=r"^timeout: must be a number of seconds, up to 1,000,000,000, not "):
        way(backend, "GetUser", GetUserRequest(), timeout=timeout)
    assert backend.received == []


@each_way
@pytest.mark.parametrize("timeout", [0, -1.0, float("-inf")])
def test_a_call_whose_time_is_up_exceeds_its_deadline(backend: Backend, way: Any, timeout: float) -> None:
    with pytest.raises(DeadlineExceeded):
        way(backend, "GetUser", GetUserRequest(), timeout=timeout)
    assert backend.received == []


@each_way
@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("CreateUser", {"user": {"email": "ada@example.com"}}),
        ("GetUser", {"user_id": "ada"}),
        ("GetUser", None),
        ("GetUser", b""),
        ("GetUser", GetUserRequest),
        ("UpdateUser", GetUserRequest()),
    ],
    ids=["dict for a write", "dict for a read", "nothing", "bytes", "class", "another message"],
)
def test_a_request_of_another_type_is_refused_by_the_name_of_the_right_one(
    backend: Backend, way: Any, method: str, request_: Any
) -> None:
    says = f"request: {method} takes a handfast.users.v1.{method}Request, not {type(request_).__name__}"
    with pytest.raises(TypeError, match=f"^{re.escape(says)}$"):
        way(backend, method, request_)
    assert backend.received == []


def test_who_serializes_requests_by_other_means_sends_what_they_like(backend: Backend) -> None:
    path = "/handfast.users.v1.UserService"
    update = UpdateUserRequest()
    update.user.user_id = "ada"
    with channel(backend.address) as opened:
        update_as_bytes: Any = opened.unary_unary(f"{path}/UpdateUser")
        update_as_bytes(update.SerializeToString())
        get: Any = opened.unary_unary(f"{path}/GetUser", lambda fields: GetUserRequest(**fields).SerializeToString())
        get({"user_id": "ada"})
    updated, got = backend.received
    assert (updated.request, got.request) == (update, GetUserRequest(user_id="ada"))


MALFORMED: list[tuple[Any, type[Exception], str]] = [
    ({"x-request-id": "1"}, TypeError, 'must be pairs of a key and a value, such as [("x-request-id", "1")], not dict'),
    ("x-request-id", TypeError, 'must be pairs of a key and a value, such as [("x-request-id", "1")], not str'),
    (1, TypeError, 'must be pairs of a key and a value, such as [("x-request-id", "1")], not int'),
    ([("a", "b", "c")], TypeError, "one entry is no pair"),
    (["ab"], TypeError, "one entry is no pair"),
    ([(b"a", "b")], TypeError, "a key must be a str, not bytes"),
    ([("X-Request-Id", "1")], ValueError, "the key 'X-Request-Id' must be of lower-case letters, digits"),
    ([("two words", "1")], ValueError, "the key 'two words' must be of"),
    ([("a", 1)], TypeError, "the value of 'a' must be a str, not int"),
    ([("a-bin", "text")], TypeError, "the value of 'a-bin' must be bytes, not str"),
    ([("a", "zoë")], ValueError, "the value of 'a' must be of printable ASCII"),
    ([("a", "1\n")], ValueError, "the value of 'a' must be of printable ASCII"),
    ([("a", b"\xff")], ValueError, "the value of 'a' must be of printable ASCII"),
]


@each_way
@pytest.mark.parametrize(("metadata", "error", "says"), MALFORMED, ids=[repr(each[0]) for each in MALFORMED])
def test_malformed_metadata_is_refused(
    backend: Backend, way: Any, metadata: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=f"^metadata: .*{re.escape(says)}"):
        way(backend, "GetUser", GetUserRequest(), metadata=metadata)
    assert backend.received == []


@each_way
@pytest.mark.parametrize(
    "make",
    [tuple, list, iter, lambda pairs: grpc.aio.Metadata(*pairs), lambda pairs: [list(pair) for pair in pairs]],
    ids=["tuple", "list", "iterator", "grpc.aio.Metadata", "lists"],
)
def test_any_form_of_pairs_is_metadata(backend: Backend, way: Any, make: Any) -> None:
    pairs = (("x-request-id", "mine"), ("a.b_c", "~ !"), ("raw-bin", b"\x00\xff"), ("text", b"as bytes"))
    reply = way(backend, "GetUser", GetUserRequest(user_id="ada"), metadata=make(pairs))
    assert isinstance(reply, GetUserResponse)
    (received,) = backend.received
    assert {key: received.metadata[key] for key, _ in pairs} == dict(pairs) | {"text": "as bytes"}


def test_calls_of_every_arity_refuse_the_same(backend: Backend) -> None:
    bad: dict[str, Any] = {"timeout": float("nan")}
    with channel(backend.address) as opened:
        count: Any = opened.unary_stream(f"{WITHOUT_CONTRACT}/Count")
        collect: Any = opened.stream_unary(f"{WITHOUT_CONTRACT}/Collect")
        gather: Any = opened.stream_stream(f"{WITHOUT_CONTRACT}/Gather")
        for call in (count, collect, collect.with_call, collect.future, gather):
            with pytest.raises(ValueError, match=r"^timeout: "):
                call(iter([b""]), **bad)
    assert backend.received == []


@each_opener
@pytest.mark.parametrize(
    "credentials", ["secret", grpc.access_token_call_credentials("token")], ids=["text", "of calls"]
)
def test_credentials_of_another_type_are_refused(opener: str, credentials: Any) -> None:
    with pytest.raises(TypeError, match=r"^credentials: must be grpc.ChannelCredentials, such as .*, not \w+$"):
        open_and_close(opener, credentials=credentials)


@pytest.mark.parametrize("address", [50051, b"localhost:50051", ("localhost", 50051), ["a:1", "b:1"]])
def test_an_address_of_another_type_is_refused(address: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^users: must be a str such as localhost:50051, or several with commas, not \w+$"
    ):
        connect(users=address)
    with pytest.raises(TypeError, match=r"^address: must be a str"):
        channel(address)


@pytest.mark.parametrize("open_channel", [channel, aio.channel])
def test_how_often_a_server_is_asked_for_a_sign_of_life_is_within_bounds(open_channel: Callable[..., Any]) -> None:
    for no_number, name in NO_NUMBERS:
        with pytest.raises(TypeError, match=rf"^keepalive_seconds: must be a number of seconds, not {name}$"):
            open_channel("localhost:50051", keepalive_seconds=no_number)
    for seconds in (0, -1, 0.4, 86_401, *NO_TIMES):
        with pytest.raises(
            ValueError, match=r"^keepalive_seconds: must be a number of seconds from 0\.5 to 86,400, not "
        ):
            open_channel("localhost:50051", keepalive_seconds=seconds)
