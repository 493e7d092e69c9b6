"""Tokens that calls carry: which call carries which, when another one is asked for, and where none is sent."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from handfast.client import PermissionDenied, Unauthenticated, aio, channel, connect
from handfast.client.security import tokens
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from handfast.users.v1.users_pb2_grpc import UserServiceStub
from tests.eventually import PATIENCE, eventually

from .backend import WITHOUT_CONTRACT, Backend, serve
from .caller import Opener

ADA = GetUserRequest(user_id="ada")


class Numbered:
    """A function that gives token-1, token-2, …, or what `make` makes of these."""

    def __init__(self, make: Callable[[str], str] = str) -> None:
        self._make, self.asked = make, 0

    def __call__(self) -> str:
        self.asked += 1
        return self._make(f"token-{self.asked}")


def jwt(name: str, **claims: Any) -> str:
    """Not signed by anybody: clients do not look at that."""
    payload = base64.urlsafe_b64encode(json.dumps({"jti": name, **claims}).encode()).decode().rstrip("=")
    return f"e30.{payload}.{name}"


def carried(backend: Backend) -> list[Any]:
    return [call.metadata.get("authorization") for call in backend.received]


def accept_only(backend: Backend, *accepted: str) -> None:
    def behave(context: grpc.ServicerContext, attempt: int) -> None:
        if dict(context.invocation_metadata()).get("authorization") not in {f"Bearer {each}" for each in accepted}:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "not this one")

    backend.behave = behave


def test_each_call_carries_the_token_that_is_given(backend: Backend, caller: Opener) -> None:
    call = caller(backend.address, token="abc.def")
    call("GetUser", ADA)
    call("Spend", b"1")
    assert carried(backend) == ["Bearer abc.def"] * 2


def test_a_function_is_asked_once_for_many_calls(backend: Backend, caller: Opener) -> None:
    token = Numbered()
    call = caller(backend.address, token=token)
    for _ in range(3):
        call("GetUser", ADA)
    assert (token.asked, carried(backend)) == (1, ["Bearer token-1"] * 3)


def test_calls_that_begin_together_share_one_answer_of_the_function(backend: Backend) -> None:
    token, together = Numbered(), threading.Barrier(8)

    def slow() -> str:
        time.sleep(0.1)
        return token()

    with channel(backend.address, token=slow) as opened:
        users = UserServiceStub(opened)

        def call() -> None:
            together.wait()
            users.GetUser(ADA)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert (token.asked, carried(backend)) == (1, ["Bearer token-1"] * 8)


def test_a_token_is_renewed_before_it_expires_while_calls_go_on_with_it(
    backend: Backend, caller: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, went_on = time.time(), threading.Event()

    def make(name: str) -> str:
        if name == "token-2":
            went_on.wait(PATIENCE)
        return jwt(name, exp=now_s + 3600)

    token = Numbered(make)
    call = caller(backend.address, token=token)
    call("GetUser", ADA)
    monkeypatch.setattr(time, "time", lambda: now_s + 3600 - tokens.MARGIN_SECONDS + 1)
    call("GetUser", ADA)
    went_on.set()
    assert eventually(lambda: token.asked == 2)
    first = f"Bearer {jwt('token-1', exp=now_s + 3600)}"
    assert carried(backend) == [first, first]


def test_an_expired_token_is_not_sent(backend: Backend, caller: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = time.time()
    token = Numbered(lambda name: jwt(name, exp=now_s + 3600))
    call = caller(backend.address, token=token)
    call("GetUser", ADA)
    monkeypatch.setattr(time, "time", lambda: now_s + 3601)
    call("GetUser", ADA)
    assert [str(each).rpartition(".")[2] for each in carried(backend)] == ["token-1", "token-2"]


@pytest.mark.parametrize("claims", [{}, {"exp": "soon"}, {"exp": None}, {"exp": 1}, {"exp": float("nan")}], ids=str)
def test_a_token_whose_end_is_not_known_is_used_until_it_is_refused(backend: Backend, claims: dict[str, Any]) -> None:
    token = Numbered(lambda name: jwt(name, **claims))
    with channel(backend.address, token=token) as opened:
        for _ in range(3):
            UserServiceStub(opened).GetUser(ADA)
    assert token.asked == 1


@pytest.mark.parametrize(
    ("method", "request_"), [("GetUser", ADA), ("UpdateUser", UpdateUserRequest(user=User(user_id="ada")))]
)
def test_a_refused_token_is_renewed_and_the_call_made_once_more(
    backend: Backend, caller: Opener, method: str, request_: Any
) -> None:
    accept_only(backend, "token-2")
    token = Numbered()
    call = caller(backend.address, token=token)
    assert call(method, request_).user.user_id == "ada"
    assert (token.asked, carried(backend)) == (2, ["Bearer token-1", "Bearer token-2"])
    assert len({getattr(each.request, "request_id", "") for each in backend.received}) == 1


def test_a_call_is_made_once_more_at_the_most(backend: Backend, caller: Opener) -> None:
    accept_only(backend)
    token = Numbered()
    with pytest.raises(Unauthenticated):
        caller(backend.address, token=token)("GetUser", ADA)
    assert (token.asked, carried(backend)) == (2, ["Bearer token-1", "Bearer token-2"])


def test_futures_that_are_refused_together_are_all_made_once_more(backend: Backend) -> None:
    accept_only(backend, "token-2")
    token = Numbered()
    with channel(backend.address, token=token) as opened:
        get = UserServiceStub(opened).GetUser
        pending = [get.future(ADA, timeout=PATIENCE) for _ in range(100)]
        assert {each.result().user.user_id for each in pending} == {"ada"}
    assert token.asked == 2


def test_who_learns_late_that_a_copy_was_refused_is_given_the_next_one(backend: Backend) -> None:
    with channel(backend.address, token=Numbered()) as opened:
        get = UserServiceStub(opened).GetUser
        get(ADA)  # so that the token is there
        accept_only(backend, "token-2")
        pending: Any = get.future(ADA)
        secured = pending._call
        refused = secured._call
        assert eventually(pending.done)
        assert not secured._is_last(refused)
        assert pending.result().user.user_id == "ada"


def test_what_may_not_be_repeated_is_not_but_the_next_call_has_another_token(backend: Backend, caller: Opener) -> None:
    accept_only(backend, "token-2")
    call = caller(backend.address, token=Numbered())
    with pytest.raises(Unauthenticated):
        call("Spend", b"1")

    def succeeds() -> bool:  # a call that is not blocking notes the refusal in a thread of gRPC, or a task
        try:
            return bool(call("Spend", b"1") == b"1")
        except Unauthenticated:
            return False

    assert eventually(succeeds)


def test_a_stream_that_is_refused_renews_the_token_too(backend: Backend) -> None:
    accept_only(backend, "token-2")
    with channel(backend.address, token=Numbered()) as opened:
        count: Any = opened.unary_stream(f"{WITHOUT_CONTRACT}/Count")
        with pytest.raises(Unauthenticated):
            list(count(b""))
        assert eventually(lambda: carried(backend)[-1] == "Bearer token-2" or not UserServiceStub(opened).GetUser(ADA))


def test_permission_denied_is_final(backend: Backend, caller: Opener) -> None:
    backend.fail(100, grpc.StatusCode.PERMISSION_DENIED)
    token = Numbered()
    with pytest.raises(PermissionDenied):
        caller(backend.address, token=token)("GetUser", ADA)
    assert (token.asked, len(backend.received)) == (1, 1)


def test_a_token_that_is_a_str_is_not_repeated(backend: Backend, caller: Opener) -> None:
    accept_only(backend)
    with pytest.raises(Unauthenticated):
        caller(backend.address, token="fixed")("GetUser", ADA)
    assert len(backend.received) == 1


@pytest.mark.parametrize("method", ["GetUser", "Spend"])
def test_a_function_that_fails_fails_the_call_at_once_without_its_words(
    backend: Backend, caller: Opener, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    asked = []

    def fails() -> str:
        asked.append(1)
        raise KeyError("s3cret")

    request: Any = ADA if method == "GetUser" else b"1"
    with caplog.at_level(logging.DEBUG), pytest.raises(Unauthenticated) as caught:
        caller(backend.address, token=fails)(method, request)
    assert caught.value.message == "token: its function raised KeyError"
    assert "s3cret" not in repr(caught.value) + str(caught.value) + caught.value.debug_error_string() + caplog.text
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value.__cause__.__cause__, KeyError)
    assert (len(asked), backend.received) == (1, [])


@pytest.mark.parametrize("token", ["Bearer s3cret", "s3cret\n", "", "zoë-s3cret"])
def test_what_is_no_token_is_refused_and_not_shown(backend: Backend, token: str) -> None:
    with pytest.raises(ValueError, match=r"^token: must be of letters, digits and ") as refused:
        channel(backend.address, token=token)
    with channel(backend.address, token=lambda: token) as opened, pytest.raises(Unauthenticated) as caught:
        UserServiceStub(opened).GetUser(ADA)
    assert "token: must be of letters, digits and" in caught.value.message
    assert "s3cret" not in f"{refused.value}{caught.value!r}{caught.value}{caught.value.debug_error_string()}"


def test_a_token_does_not_show_in_what_prints_a_call(backend: Backend) -> None:
    entry = tokens.TokenSource("s3cret").get()
    assert entry == ("authorization", "Bearer s3cret")
    assert "s3cret" not in repr(entry)


@pytest.mark.parametrize("named", [{"metadata": [("authorization", "Bearer x")]}, "credentials"], ids=["metadata", "c"])
def test_authorization_by_hand_beside_a_token_is_refused(backend: Backend, caller: Opener, named: Any) -> None:
    if named == "credentials":
        named = {"credentials": grpc.access_token_call_credentials("x")}
    call = caller(backend.address, token="abc")
    if "credentials" in named and call._way == "begun":
        return  # which takes none
    with pytest.raises(ValueError, match="cannot be given on a channel with a token"):
        call("GetUser", ADA, **named)
    assert backend.received == []


@pytest.mark.parametrize("open_channel", [connect, aio.connect, channel, aio.channel], ids=["c", "ac", "ch", "ach"])
def test_a_token_is_not_sent_in_plain_text_to_another_machine(open_channel: Callable[..., Any]) -> None:
    async def run() -> None:
        open_channel("users.example.com:50051", token="abc")

    with pytest.raises(ValueError, match=r"^token: is sent in plain text to this machine only, and users.example.com"):
        asyncio.run(run())


@pytest.mark.parametrize("scheme", ["unix:{}", "unix-abstract:{}"])
def test_a_token_goes_over_a_socket(tmp_path: Path, scheme: str, caller: Opener) -> None:
    backend = Backend()
    address = scheme.format(tmp_path / "users")
    server = serve(backend, 0, address)
    caller(address, token="abc")("GetUser", ADA)
    server.stop(0).wait()
    assert carried(backend) == ["Bearer abc"]


def test_interceptors_do_not_see_the_token(backend: Backend) -> None:
    seen: list[Any] = []

    class Sync(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            seen.extend(details.metadata)
            return continuation(details, request)

    class Async(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            seen.extend(details.metadata)
            return await continuation(details, request)

    class AsyncStream(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
            seen.extend(details.metadata)
            return await asyncio.create_task(continuation(details, request))

    with channel(backend.address, token="abc", interceptors=[Sync()]) as opened:
        UserServiceStub(opened).GetUser(ADA)

    async def call() -> None:
        async with aio.channel(backend.address, token="abc", interceptors=[Async(), AsyncStream()]) as opened:
            users: Any = UserServiceStub(opened)
            await users.GetUser(ADA)
            count: Any = opened.unary_stream(f"{WITHOUT_CONTRACT}/Count")
            assert [number async for number in count(b"")] == [b"1", b"2"]
            echo: Any = opened.stream_stream(f"{WITHOUT_CONTRACT}/Echo")  # which nobody looks at
            assert [each async for each in echo(iter([b"a"]))] == [b"a"]

    asyncio.run(call())
    assert carried(backend) == ["Bearer abc"] * 4
    assert [key for key, _ in seen] == ["x-request-id"] * 3


def test_the_environment_names_a_file_with_a_token_that_is_read_anew(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    monkeypatch.setenv("HANDFAST_TOKEN_FILE", str(file))
    with pytest.raises(ValueError, match=r"^HANDFAST_TOKEN_FILE: cannot read .*No such file"):
        connect()
    file.touch(0o600)
    file.write_text("token-1\n")
    accept_only(backend, "token-2")
    with connect(users=backend.address) as suite:
        file.write_text("token-2\n")
        suite.users.GetUser(ADA)
    assert carried(backend)[-1] == "Bearer token-2"


def test_a_file_with_a_token_that_others_can_reach_is_refused(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("token-1\n")
    monkeypatch.setenv("HANDFAST_TOKEN_FILE", str(file))
    says = rf"HANDFAST_TOKEN_FILE: {file} can be reached by others than its owner \(mode 0644\); say chmod 600 {file}$"
    file.chmod(0o644)
    with pytest.raises(ValueError, match=f"^{says}"):
        connect()
    file.chmod(0o600)
    with connect(users=backend.address) as suite:
        file.chmod(0o644)
        with pytest.raises(Unauthenticated, match=says.rstrip("$")):
            suite.users.GetUser(ADA)
    assert backend.received == []


def test_the_asyncio_call_is_over_when_its_last_copy_is(backend: Backend) -> None:
    accept_only(backend, "token-2")

    async def call() -> None:
        async with aio.channel(backend.address, token=Numbered()) as opened:
            users: Any = UserServiceStub(opened)
            told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            pending = users.GetUser(ADA)
            pending.add_done_callback(lambda ended: told.set_result(ended.done()))
            assert await told
            assert await pending.code() is grpc.StatusCode.OK
            assert (await pending).user.user_id == "ada"

    asyncio.run(call())


def test_a_future_is_done_when_its_last_copy_is(backend: Backend) -> None:
    accept_only(backend, "token-2")
    told = threading.Event()
    with channel(backend.address, token=Numbered()) as opened:
        pending = UserServiceStub(opened).GetUser.future(ADA)
        pending.add_done_callback(lambda ended: told.set() if ended.done() else None)
        assert told.wait(30)
        assert pending.code() is grpc.StatusCode.OK
