"""What is trusted changes while a server runs: files, and keys behind a URL of which each fault is tried."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from handfast.server.chassis.errors import NotAuthenticated, PeerUnavailable
from handfast.server.chassis.security import fetching, sources
from handfast.server.chassis.security.authenticator import Authenticator
from handfast.server.chassis.security.fetching import fetch
from handfast.server.chassis.security.sources import Source
from handfast.server.chassis.security.tokens import parse_revoked
from handfast.server.chassis.server import Server
from handfast.server.process.settings import ServerSettings
from tests.eventually import eventually
from tests.security.conftest import authenticate, refusal, server_settings
from tests.security.issuer import AUDIENCE, Issuer, Key


class Publisher:
    """An HTTP server on loopback that answers with what the test at hand says."""

    def __init__(self) -> None:
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda request: None
        self.requests = 0
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.requests += 1
                publisher.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys?version=1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def publish(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.answer = partial(_answer, body=body, status=status, headers=headers)


def _answer(request: BaseHTTPRequestHandler, body: bytes, status: int, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher()
    yield publisher
    publisher.server.shutdown()
    publisher.server.server_close()


def of_url(url: str, issuer: Issuer) -> ServerSettings:
    tokens = {"token_keys": url, "token_issuer": issuer.url, "token_audience": AUDIENCE}
    return server_settings(authentication="enforce", **tokens)


@pytest.fixture
def started() -> Iterator[Callable[[ServerSettings], Authenticator]]:
    all_started = []

    def start(settings: ServerSettings) -> Authenticator:
        authenticator = Authenticator(settings)
        all_started.append(authenticator)
        authenticator.start()
        return authenticator

    yield start
    for authenticator in all_started:
        authenticator.stop(10)


Start = Callable[[ServerSettings], Authenticator]


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FILE_INTERVAL", 0.05)


def test_keys_in_a_file_that_rotate_take_over_and_the_old_ones_end(started: Start, tmp_path: Path) -> None:
    old, new = Key("old"), Key("new")
    before, both, after = Issuer(old), Issuer(new, old), Issuer(new)
    authenticator = started(server_settings(**before.settings(tmp_path)))
    authenticate(authenticator, before.token("ada"))
    both.settings(tmp_path)
    assert eventually(lambda: _accepts(authenticator, both.token("ada")))
    good = before.token("ada")
    authenticate(authenticator, good)
    after.settings(tmp_path)
    assert eventually(lambda: not _accepts(authenticator, good))  # though it was remembered
    assert refusal(authenticator, good).values == {"problem": "unknown_key"}
    authenticate(authenticator, after.token("ada"))


def test_what_breaks_a_rule_leaves_what_was_read_before(started: Start, issuer: Issuer, tmp_path: Path) -> None:
    authenticator = started(server_settings(**issuer.settings(tmp_path)))
    (tmp_path / "keys.json").write_text("{")
    source = authenticator._keys
    assert source is not None
    assert eventually(lambda: "it is no JSON Web Key Set" in source.failure)
    assert source.failures > 0
    assert _accepts(authenticator, issuer.token())
    os.unlink(tmp_path / "keys.json")
    assert eventually(lambda: "No such file" in source.failure)
    assert _accepts(authenticator, issuer.token())
    issuer.settings(tmp_path)
    assert eventually(lambda: not source.failure)
    assert source.age_s < 60


def test_a_token_that_is_revoked_later_is_refused_though_it_is_remembered(
    started: Start, issuer: Issuer, tmp_path: Path
) -> None:
    revoked = tmp_path / "revoked"
    revoked.touch()
    authenticator = started(server_settings(**issuer.settings(tmp_path), revoked_tokens=str(revoked)))
    token = issuer.token(jti="stolen")
    authenticate(authenticator, token)
    revoked.write_text("stolen\n")
    assert eventually(lambda: not _accepts(authenticator, token))
    assert refusal(authenticator, token).values == {"problem": "revoked"}


def test_a_file_that_is_being_written_is_read_when_it_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LONGEST_WRITE", math.inf)
    file = tmp_path / "revoked"
    file.write_text("one\n")
    source = Source("revoked_tokens", str(file), parse_revoked, lambda: None)
    source.read()
    for part in ("", "one\n", "one\ntwo\n"):
        file.write_text(part)
        source.read()
        assert source.value == frozenset({"one"})
    source.read()
    assert source.value == frozenset({"one", "two"})


@pytest.mark.parametrize("how", ["appended to", "replaced"])
def test_a_file_that_never_stays_the_same_is_read_all_the_same(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "revoked"
    file.write_text("one\n")
    source = Source("revoked_tokens", str(file), parse_revoked, lambda: None)
    source.read()
    ids = ["one"]

    def revoke(token_id: str) -> None:
        ids.append(token_id)
        if how == "appended to":
            with file.open("a") as lines:
                lines.write(f"{token_id}\n")
        else:
            other = tmp_path / "other"
            other.write_text("".join(f"{each}\n" for each in ids))
            other.rename(file)
        source.read()

    monkeypatch.setattr(sources, "LONGEST_WRITE", math.inf)
    for token_id in ("two", "three"):
        revoke(token_id)
        assert source.value == frozenset({"one"})
    monkeypatch.setattr(sources, "LONGEST_WRITE", 0.0)
    revoke("four")
    revoke("five")
    assert source.value == frozenset(ids)
    revoke("six")  # the next change has its time again
    assert source.value == frozenset(ids) - {"six"}


def test_keys_come_from_a_url(started: Start, issuer: Issuer, publisher: Publisher) -> None:
    publisher.publish(issuer.jwks)
    authenticator = started(of_url(publisher.url, issuer))
    assert authenticate(authenticator, issuer.token("ada")).subject == "ada"
    for check in authenticator.checks:
        check()


def test_a_server_without_keys_yet_starts_but_is_not_ready(
    started: Start, issuer: Issuer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "URL_RETRY", 0.05)
    publisher.publish(b"", status=503)
    authenticator = started(of_url(publisher.url, issuer))
    (check,) = authenticator.checks
    with pytest.raises(ConnectionError, match="the answer has status 503"):
        check()
    with pytest.raises(PeerUnavailable):
        authenticate(authenticator, issuer.token())
    publisher.publish(issuer.jwks)
    assert eventually(lambda: _accepts(authenticator, issuer.token()))
    check()


def test_health_says_so_from_the_first_moment_on(issuer: Issuer, publisher: Publisher) -> None:
    publisher.publish(b"", status=503)
    server = Server(of_url(publisher.url, issuer), domain="handfast.test", services=[])
    server.start()
    try:
        with grpc.insecure_channel(server.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        server.stop()


def test_the_last_good_keys_stay_while_the_url_fails(
    started: Start, issuer: Issuer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "URL_INTERVAL", 0.05)
    monkeypatch.setattr(sources, "URL_RETRY", 0.05)
    publisher.publish(issuer.jwks)
    authenticator = started(of_url(publisher.url, issuer))
    publisher.publish(b"<html>not today</html>")
    source = authenticator._keys
    assert source is not None
    assert eventually(lambda: source.failures >= 2)
    assert _accepts(authenticator, issuer.token())


def test_a_new_key_is_fetched_when_it_is_first_used_and_unknown_ones_once_a_minute(
    started: Start, issuer: Issuer, publisher: Publisher
) -> None:
    publisher.publish(issuer.jwks)
    authenticator = started(of_url(publisher.url, issuer))
    rotated = Issuer(Key("rotated"))
    publisher.publish(rotated.jwks)
    with pytest.raises(PeerUnavailable):  # which clients try again
        authenticate(authenticator, rotated.token("ada"))
    assert eventually(lambda: _accepts(authenticator, rotated.token("ada")))
    assert publisher.requests == 2
    for number in range(20):
        unknown = Issuer(Key(f"made-up-{number}"))
        assert refusal(authenticator, unknown.token()).values == {"problem": "unknown_key"}
    assert publisher.requests == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int, publisher: Publisher) -> None:
    publisher.publish(b"", status, Location=publisher.url)
    with pytest.raises(OSError, match=f"the answer has status {status}, not 200"):
        fetch(publisher.url)
    assert publisher.requests == 1


def test_a_huge_answer_is_not_read_to_its_end(publisher: Publisher) -> None:
    publisher.publish(b" " * (fetching.MAX_BYTES + 1))
    with pytest.raises(OSError, match="has more than 262144 bytes"):
        fetch(publisher.url)


def test_a_slow_answer_is_given_up_though_bytes_keep_coming(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT", 0.3)
    given_up = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while not given_up.wait(0.02):
                request.wfile.write(b" ")
        except OSError:
            given_up.set()

    publisher.answer = drip
    try:
        with pytest.raises(OSError, match=r"the answer took more than 0\.3 s"):
            fetch(publisher.url)
    finally:
        given_up.set()


def test_what_is_no_http_and_what_is_not_there_is_a_failure(publisher: Publisher) -> None:
    def greet(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"hello\r\n\r\n")

    publisher.answer = greet
    with pytest.raises(OSError, match="the answer is no HTTP"):
        fetch(publisher.url)
    publisher.server.server_close()
    with pytest.raises(OSError, match="refused"):
        fetch("http://127.0.0.1:1/keys")


def _accepts(authenticator: Authenticator, token: str) -> bool:
    try:
        authenticate(authenticator, token)
    except (NotAuthenticated, PeerUnavailable):
        return False
    return True
