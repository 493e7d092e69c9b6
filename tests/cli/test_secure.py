"""`handfast up --secure` and what calls such a suite: with certificates and tokens for development."""

from __future__ import annotations

import os
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest

from handfast.client import TLS, PermissionDenied, Suite, Unauthenticated, Unavailable, connect
from handfast.server.cli.dev import folder as dev
from handfast.server.cli.dev.folder import CLIENT, SERVERS, DevCredentials
from handfast.server.process.settings import ServerSettings
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User
from tests.cli.processes import Process, Result, suite_up
from tests.eventually import eventually
from tests.grpcurl.conftest import grpcurl
from tests.grpcurl.tool import Grpcurl
from tests.people import new_email
from tests.project.commands import ROOT, run
from tests.project.readme import SECURITY, blocks, quoted, shows_the_same, table
from tests.security.authority import Authority
from tests.security.issuer import Issuer

__all__ = ["grpcurl"]

Handfast = Callable[..., Result]
Up = Callable[..., Process]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A suite that tests share."""
    with suite_up(tmp_path_factory.mktemp("secure"), {}, "--secure") as suite:
        yield suite


@pytest.fixture(scope="module")
def credentials(suite: Process) -> DevCredentials:
    return DevCredentials(suite.errors.parent / "data" / "dev-credentials")


def _tls(credentials: DevCredentials) -> TLS:
    return TLS(credentials.ca, credentials.certificate(CLIENT), credentials.key(CLIENT))


def _connect(suite: Process, tls: TLS | None, token: str | None) -> Suite:
    at = suite.addresses
    return connect(at["users"], at["preferences"], at["accounts"], tls=tls, token=token, timeout=5)


@pytest.fixture
def admin(suite: Process, credentials: DevCredentials) -> Iterator[Suite]:
    with _connect(suite, _tls(credentials), credentials.token("admin").read_text().strip()) as admin:
        yield admin


def _new_user(admin: Suite, user_id: str) -> None:
    admin.users.CreateUser(CreateUserRequest(user=User(user_id=user_id, email=new_email())))


def test_up_says_how_to_call_it(suite: Process, credentials: DevCredentials) -> None:
    printed = suite.printed
    assert "for development and not for production" in printed
    assert f"\n  {credentials.folder}\n" in printed
    assert f"\n  . {credentials.client_variables}\n" in printed
    assert f"https://127.0.0.1:{suite.first_port + 100}/metrics" in printed
    assert "-plaintext" not in printed


def _tried(grpcurl: Grpcurl, printed: str, **environment: str) -> str:
    """What is printed by that which `up` says to try, in a shell that has this environment."""
    commands = printed.partition("\nTry")[2].partition("Ctrl-C")[0].splitlines()[1:]
    path = os.pathsep.join((str(grpcurl.path.parent), os.environ["PATH"]))
    done = run("sh", "-e", "-c", "\n".join(commands), cwd=ROOT, PATH=path, **environment)
    assert done.returncode == 0, f"{commands}\n{done.stdout}"
    return done.stdout


def test_what_up_says_to_try_is_answered(suite: Process, grpcurl: Grpcurl) -> None:
    assert "ada@example.com" in _tried(grpcurl, suite.printed)


def test_what_up_says_to_try_is_answered_by_a_suite_with_settings_of_one_s_own(
    up: Up, grpcurl: Grpcurl, tmp_path: Path
) -> None:
    variables, client = _own_settings(tmp_path)
    printed = up(**variables).read_until("ready")
    assert printed.endswith("\nready\n")
    assert "ada@example.com" in _tried(grpcurl, printed, **client)


def test_who_does_not_get_in_sees_what_the_table_shows(
    suite: Process, credentials: DevCredentials, grpcurl: Grpcurl, tmp_path: Path
) -> None:
    stranger = dev.make(tmp_path / "stranger")
    get_user = (suite.addresses["users"].replace("127.0.0.1", "localhost"), "handfast.users.v1.UserService/GetUser")
    ca = ("-cacert", str(credentials.ca))
    pair = ("-cert", str(credentials.certificate(CLIENT)), "-key", str(credentials.key(CLIENT)))
    token = ("-H", "authorization: Bearer ${TOKEN}")
    expand = ("-expand-headers", *token)
    own, others = (each.issue("grace", [], 600) for each in (credentials, stranger))
    expired = credentials.issue("grace", ["users.read"], -600)

    def seen(*flags: str, **variables: str) -> str:
        request = ("-connect-timeout", "5", "-d", '{"user_id": "ada"}')
        done = run(grpcurl.path, *flags, *request, *get_user, cwd=ROOT, **variables)
        assert done.returncode != 0
        return done.stdout.replace(get_user[0], "localhost:50053")

    found = [
        seen("-plaintext"),
        seen(*ca, TOKEN=own),
        seen(*pair, TOKEN=own),
        seen(*ca, *pair),
        seen(*ca, *pair, *token, TOKEN=own),
        seen(*ca, *pair, *expand),
        seen(*ca, *pair, *expand, TOKEN=""),
        seen(*ca, *pair, *expand, TOKEN=expired),
        seen(*ca, *pair, *expand, TOKEN=others),
        seen(*ca, *pair, *expand, TOKEN=own),
    ]
    shown = [quoted(sees)[0] for sees, _ in table(SECURITY, "grpcurl says", "since")]
    eof, unknown_ca, _other_name, _nobody, *of_the_server = shown
    for expected, said in zip([eof, eof, unknown_ca, *of_the_server], found, strict=True):
        assert expected in said


def test_who_cannot_shake_hands_leaves_no_line_in_the_log(suite: Process) -> None:
    before = suite.errors.stat().st_size
    for address in suite.addresses.values():
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert connection.recv(1) == b""  # the server has seen it, and would have written its line
    with suite.errors.open() as log:
        log.seek(before)
        assert "Handshake" not in log.read()


def _own_settings(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The variables of a suite with certificates and tokens of its own, and those of a caller but for HANDFAST_CA."""
    authority, issuer = Authority(folder), Issuer()
    grants, token, caller = dev.make(folder / "dev").grants, folder / "token", authority.client()
    token.write_text(issuer.token("admin", ["users.write", "preferences.write"]))
    shared = {"tls_client_ca": authority.file, "peer_ca": authority.file, "certificate_grants": grants}
    shared |= issuer.settings(folder)
    variables: dict[str, str] = {}
    for server in SERVERS:
        files = authority.server(server, spiffe=f"spiffe://handfast.test/{server}")
        given = shared | {"tls_certificate": files.certificate, "tls_key": files.key}
        variables |= {ServerSettings.variable(server, name): str(value) for name, value in given.items()}
    client = {"HANDFAST_CERTIFICATE": caller.certificate, "HANDFAST_KEY": caller.key, "HANDFAST_TOKEN_FILE": token}
    return variables, {name: str(value) for name, value in client.items()}


def test_with_tls_alone_up_says_to_try_nothing_but_its_ca(tmp_path: Path, grpcurl: Grpcurl, up: Up) -> None:
    variables, _ = _own_settings(tmp_path)
    kept = ("_TLS_CERTIFICATE", "_TLS_KEY", "_PEER_CA")
    printed = up(**{name: value for name, value in variables.items() if name.endswith(kept)}).read_until("ready")
    assert "\nTry:\n" in printed
    assert "ada@example.com" in _tried(grpcurl, printed)


@pytest.mark.parametrize(
    ("without", "complaint"),
    [
        ("HANDFAST_PEER_CA", "--peer-ca (or HANDFAST_PEER_CA) is needed, as the servers call each other, and these"),
        ("HANDFAST_USERS_TLS_", "--tls-certificate (or HANDFAST_USERS_TLS_CERTIFICATE) is needed with --peer-ca, as"),
        (
            "HANDFAST_CERTIFICATE_GRANTS",
            "--peer-token (or HANDFAST_USERS_PEER_TOKEN) or --certificate-grants is needed",
        ),
    ],
)
def test_up_refuses_settings_by_which_its_servers_cannot_call_each_other(
    without: str, complaint: str, tmp_path: Path, handfast: Handfast
) -> None:
    variables, _ = _own_settings(tmp_path)
    if "USERS" in without:
        del variables["HANDFAST_TLS_CLIENT_CA"], variables["HANDFAST_CERTIFICATE_GRANTS"]
    given = {name: value for name, value in variables.items() if not name.startswith(without)}
    result = handfast("up", "--data-dir", str(tmp_path / "data"), **given)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr.startswith(f"handfast: up: {complaint}")


def test_a_caller_with_certificate_and_token_is_served_in_transactions_too(admin: Suite) -> None:
    _new_user(admin, "secure-grace")
    with admin.transaction() as tx:
        user = tx.users.GetUser(GetUserRequest(user_id="secure-grace")).user
        user.display_name = "Grace"
        tx.users.UpdateUser(UpdateUserRequest(user=user))
    assert admin.users.GetUser(GetUserRequest(user_id="secure-grace")).user.display_name == "Grace"


@pytest.mark.usefixtures("short_pauses")
def test_nobody_else_is(suite: Process, credentials: DevCredentials, tmp_path: Path) -> None:
    token = credentials.token("admin").read_text().strip()
    stranger = dev.make(tmp_path / "stranger")
    mixed = TLS(credentials.ca, stranger.certificate(CLIENT), stranger.key(CLIENT))
    for tls, given, refusal in (
        (None, None, Unavailable),
        (TLS(credentials.ca), token, Unavailable),
        (mixed, token, Unavailable),
        (_tls(stranger), token, Unavailable),
        (_tls(credentials), None, PermissionDenied),  # its certificate is granted nothing
        (_tls(credentials), stranger.token("admin").read_text().strip(), Unauthenticated),
    ):
        with _connect(suite, tls, given) as caller, pytest.raises(refusal):
            caller.users.GetUser(GetUserRequest(user_id="nobody"), timeout=30)


def test_a_user_has_what_is_its_own_and_nothing_else(suite: Process, credentials: DevCredentials, admin: Suite) -> None:
    _new_user(admin, "secure-ada")
    _new_user(admin, "secure-eve")
    with _connect(suite, _tls(credentials), credentials.issue("secure-ada", ["self"], 600)) as ada:
        assert ada.users.GetUser(GetUserRequest(user_id="secure-ada")).user.user_id == "secure-ada"
        with pytest.raises(PermissionDenied):
            ada.users.GetUser(GetUserRequest(user_id="secure-eve"))


def test_a_token_that_is_revoked_is_refused(suite: Process, credentials: DevCredentials, admin: Suite) -> None:
    token = credentials.issue("eve", ["users.read"], 600)
    with _connect(suite, _tls(credentials), token) as eve:
        _new_user(admin, "secure-seen")
        eve.users.GetUser(GetUserRequest(user_id="secure-seen"))
        jti = jwt.decode(token, options={"verify_signature": False})["jti"]
        with credentials.revoked_tokens.open("a") as revoked:
            revoked.write(f"{jti}\n")

        def is_refused() -> bool:
            try:
                eve.users.GetUser(GetUserRequest(user_id="secure-seen"))
            except Unauthenticated:
                return True
            return False

        assert eventually(is_refused)


def test_operators_see_transactions(handfast: Handfast, suite: Process, credentials: DevCredentials) -> None:
    first_port = ("--first-port", str(suite.first_port))
    result = handfast("transactions", "list", "--in-doubt", *first_port, **credentials.of_client("operator"))
    assert (result.status, result.stderr) == (0, "")
    refused = handfast("transactions", "list", *first_port, **credentials.of_client("user"))
    assert refused.status == 2
    assert "transactions.operate" in refused.stderr


def test_its_health_is_for_those_with_a_certificate(
    handfast: Handfast, suite: Process, credentials: DevCredentials
) -> None:
    users = suite.addresses["users"]
    assert handfast("health", users, **credentials.of_client()) == Result(0, "SERVING\n", "")
    assert handfast("health", users, HANDFAST_CA=str(credentials.ca)).status == 1


def test_metrics_are_for_those_with_a_certificate(suite: Process, credentials: DevCredentials) -> None:
    context = ssl.create_default_context(cafile=str(credentials.ca))
    context.load_cert_chain(credentials.certificate(CLIENT), credentials.key(CLIENT))
    with urllib.request.urlopen(f"https://127.0.0.1:{suite.first_port + 100}/metrics", context=context) as metrics:
        assert b"handfast_certificate_expiry_timestamp_seconds" in metrics.read()


def test_the_demo_runs_on_it_by_its_environment(
    handfast: Handfast, suite: Process, credentials: DevCredentials
) -> None:
    result = handfast("demo", "--first-port", str(suite.first_port), **credentials.of_client())
    assert (result.status, result.stderr) == (0, "")
    (shown,) = [block.output for block in blocks("sh") if block.code == "make demo\n"]
    assert shown is not None
    assert shows_the_same(shown, result.stdout)


def test_the_demo_starts_one_of_its_own(handfast: Handfast, tmp_path: Path) -> None:
    result = handfast("demo", "--secure", TMPDIR=str(tmp_path))
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith("Starting a suite that takes TLS with certificates, and tokens, ")
    assert result.stdout.endswith("Done: what spans services commits everywhere or nowhere.\n")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_starts_none_where_it_is_told_which(handfast: Handfast) -> None:
    result = handfast("demo", "--secure", "--first-port", "50051")
    line = "--secure starts a suite of its own; without it, HANDFAST_CA and the like are for one that runs"
    assert result == Result(2, "", f"handfast: demo: {line}\n")
