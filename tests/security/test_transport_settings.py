"""Files of certificates, keys and tokens are checked together before a server uses any of them."""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.server.chassis.security.transport import ServerTls
from handfast.server.process import secrets
from handfast.server.process.settings import ServerSettings, SettingsError
from tests.security.authority import HOUR, Authority, replace

MINUTE = datetime.timedelta(minutes=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


def settings(**given: Any) -> ServerSettings:
    files = {name: os.fspath(value) if isinstance(value, Path) else value for name, value in given.items()}
    return ServerSettings(**{"name": "users", "listen": "127.0.0.1:0"} | files)


def refusal(**given: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        settings(**given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_belongs_together_is_taken(authority: Authority) -> None:
    server = authority.server()
    taken = settings(tls_certificate=server.certificate, tls_key=server.key, tls_client_ca=authority.file)
    own = taken.own_certificates()
    assert own is not None
    assert (own.certificate, own.ca) == (server.certificate.read_bytes(), authority.pem)
    assert set(own.expiry) == {"tls_certificate", "tls_client_ca"}
    assert taken.peer_certificates() is None
    assert "PRIVATE" not in repr(own)


def test_without_files_there_is_plain_text() -> None:
    assert settings().own_certificates() is None
    assert settings().peer_certificates() is None


def test_a_server_shows_its_own_certificate_to_peers_unless_it_has_another_for_them(authority: Authority) -> None:
    server, client = authority.server(), authority.client()
    own = {"tls_certificate": server.certificate, "tls_key": server.key, "peer_ca": authority.file}
    assert settings(**own).peer_certificate == os.fspath(server.certificate)
    assert settings(**own).peer_key == os.fspath(server.key)
    other = {"peer_certificate": client.certificate, "peer_key": client.key}
    assert settings(**own, **other).peer_certificate == os.fspath(client.certificate)
    assert settings(peer_ca=authority.file).peer_certificate == ""


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"tls_certificate"}, "--tls-certificate (or HANDFAST_USERS_TLS_CERTIFICATE) needs --tls-key, too"),
        ({"tls_key"}, "--tls-key (or HANDFAST_USERS_TLS_KEY) needs --tls-certificate, too"),
        ({"tls_client_ca"}, "--tls-client-ca (or HANDFAST_TLS_CLIENT_CA) needs --tls-certificate, too"),
        ({"peer_certificate"}, "--peer-certificate (or HANDFAST_USERS_PEER_CERTIFICATE) needs --peer-key, too"),
        ({"peer_key"}, "--peer-key (or HANDFAST_USERS_PEER_KEY) needs --peer-certificate, too"),
        ({"peer_certificate", "peer_key"}, "--peer-certificate (or HANDFAST_USERS_PEER_CERTIFICATE) needs --peer-ca"),
        ({"revoked_tokens"}, "--revoked-tokens (or HANDFAST_REVOKED_TOKENS) needs --token-keys, too"),
        ({"token_issuer"}, "--token-issuer (or HANDFAST_TOKEN_ISSUER) needs --token-keys, too"),
        ({"token_audience"}, "--token-audience (or HANDFAST_TOKEN_AUDIENCE) needs --token-keys, too"),
        ({"certificate_grants"}, "--certificate-grants (or HANDFAST_CERTIFICATE_GRANTS) needs --tls-client-ca, too"),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else "",
)
def test_a_file_without_those_it_belongs_to_is_refused(given: set[str], complaint: str, authority: Authority) -> None:
    server = authority.server()
    of_setting = {"certificate": server.certificate, "key": server.key, "ca": authority.file}
    assert complaint in refusal(**{each: of_setting.get(each.rpartition("_")[2], "any") for each in given})


@pytest.mark.parametrize("prefix", ["tls", "peer"])
def test_certificates_that_cannot_be_used_are_refused_by_the_setting_that_names_them(
    prefix: str, authority: Authority, folder: Path
) -> None:
    good, other = authority.server(), authority.server("other")
    certificate, key = f"{prefix}_certificate", f"{prefix}_key"
    ca = "tls_client_ca" if prefix == "tls" else "peer_ca"
    right = {certificate: good.certificate, key: good.key, ca: authority.file}
    settings(**right)

    def complaint(setting: str, file: Path) -> str:
        line = refusal(**right | {setting: file})
        assert line.startswith(f"--{setting.replace('_', '-')} (or HANDFAST_")
        assert f"names {file}, " in line
        return line

    def written(content: bytes) -> Path:
        replace(folder / "odd.pem", content)
        return folder / "odd.pem"

    absent = folder / "absent.pem"
    for setting in right:
        assert "cannot be read: No such file or directory" in complaint(setting, absent)
        assert "must hold" in complaint(setting, written(b"no PEM"))
        assert "must hold" in complaint(setting, written(b""))
        assert "cannot be read: Is a directory" in complaint(setting, folder)
    cut = good.certificate.read_bytes() + good.certificate.read_bytes()[:200]
    for setting in (certificate, ca):
        assert "in which a certificate is damaged" in complaint(setting, written(cut))
    assert "in which CN=server is no CA" in complaint(ca, good.certificate)
    broken = good.certificate.read_bytes().replace(b"M", b"N")
    assert "must hold certificates in PEM" in complaint(certificate, written(broken))
    assert f"is not the key of the certificate in {good.certificate}" in complaint(key, other.key)
    assert "must hold a private key in PEM" in complaint(key, written(good.certificate.read_bytes()))
    expired = authority.server("expired", lasts=-MINUTE)
    assert "in which CN=expired expired at 20" in complaint(certificate, expired.certificate)
    early = authority.server("early", starts=HOUR, lasts=2 * HOUR)
    assert "in which CN=early is not valid before 20" in complaint(certificate, early.certificate)
    unrelated = good.certificate.read_bytes() + Authority(folder, "unrelated").pem
    assert "a certificate has not signed the one before it" in complaint(certificate, written(unrelated))
    gone = Authority(folder, "gone", lasts=-MINUTE)
    assert "whose last CA expired at 20" in complaint(ca, gone.file)


def test_a_chain_is_as_good_as_the_first_that_expires_in_it(authority: Authority, folder: Path) -> None:
    between = Authority(folder, "between", signed_by=authority, lasts=2 * HOUR)
    server = between.server(lasts=3 * HOUR)
    own = settings(tls_certificate=server.certificate, tls_key=server.key).own_certificates()
    of_ca = settings(peer_ca=between.file).peer_certificates()
    assert own is not None
    assert of_ca is not None
    assert own.expiry["tls_certificate"] == of_ca.expiry["peer_ca"]
    past = Authority(folder, "past", signed_by=authority, lasts=-MINUTE).server()
    assert "in which CN=past expired at" in refusal(tls_certificate=past.certificate, tls_key=past.key)


def test_with_mutual_tls_connections_have_an_end(authority: Authority) -> None:
    server = authority.server()
    tls = {"tls_certificate": server.certificate, "tls_key": server.key, "max_connection_age": 0.0}
    assert settings(**tls).max_connection_age == 0
    assert refusal(**tls, tls_client_ca=authority.file) == (
        "--max-connection-age (or HANDFAST_MAX_CONNECTION_AGE) is 0, so callers would stay connected whose "
        "certificates have expired; with --tls-client-ca it must have an end"
    )


def test_files_with_the_line_ends_and_marks_of_windows_are_taken(authority: Authority, folder: Path) -> None:
    server = authority.server()
    written = {"tls_certificate": server.certificate, "tls_key": server.key, "tls_client_ca": authority.file}
    for setting, file in written.items():
        written[setting] = folder / f"windows-{file.name}"
        replace(written[setting], b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert ServerTls(settings(**written)).mutual


def test_a_certificate_that_openssl_does_not_take_is_refused(authority: Authority) -> None:
    weak = authority.server("weak", curve=ec.SECP192R1())
    complaint = f"names {weak.certificate}, which OpenSSL does not take: EE_KEY_TOO_SMALL"
    with pytest.raises(SettingsError, match=re.escape(complaint)):
        ServerTls(settings(tls_certificate=weak.certificate, tls_key=weak.key))


def test_an_old_ca_and_a_new_one_stand_side_by_side(authority: Authority, folder: Path) -> None:
    new = Authority(folder, "new", lasts=48 * HOUR)
    both = folder / "both.pem"
    both.write_bytes(Authority(folder, "gone", lasts=-MINUTE).pem + authority.pem + new.pem)
    alone, beside = settings(peer_ca=new.file).peer_certificates(), settings(peer_ca=both).peer_certificates()
    assert alone is not None
    assert beside is not None
    assert beside.expiry == alone.expiry


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_secret_that_others_can_reach_is_refused(mode: int, authority: Authority, folder: Path) -> None:
    server = authority.server("known")
    server.key.chmod(mode)
    line = refusal(tls_certificate=server.certificate, tls_key=server.key)
    assert f"others than its owner can reach (mode {mode:04o}); say chmod 600 {server.key}" in line
    token = folder / "token"
    token.write_text("a.b.c\n")
    token.chmod(mode)
    assert refusal(peer_token=token).startswith("--peer-token (or HANDFAST_USERS_PEER_TOKEN) names ")
    token.chmod(0o600)
    assert settings(peer_token=token).peer_token == os.fspath(token)


def test_a_key_that_kubernetes_mounts_for_the_group_of_a_server_is_taken(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = authority.server("mounted")
    monkeypatch.setattr(secrets, "_ROOT", server.key.stat().st_uid)
    for user, mode, is_taken in (
        (1000, 0o440, True),
        (1000, 0o400, True),
        (1000, 0o640, True),
        (1000, 0o644, False),
        (1000, 0o460, False),
        (secrets._ROOT, 0o440, False),
        (secrets._ROOT, 0o400, True),
    ):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        server.key.chmod(mode)
        if is_taken:
            assert settings(tls_certificate=server.certificate, tls_key=server.key).own_certificates() is not None
        else:
            assert f"can reach (mode {mode:04o})" in refusal(tls_certificate=server.certificate, tls_key=server.key)


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb\n", b"\xff", b"Bearer a.b.c\n", b" \n", "é".encode()], ids=repr)
def test_a_file_of_a_token_holds_one_and_nothing_else(content: bytes, folder: Path) -> None:
    replace(folder / "token", content)
    assert "--peer-token" in refusal(peer_token=folder / "token")


class TestBeyondLoopback:
    """A server that other machines can reach says how they are kept out, or that they are not."""

    PLAIN = "--tls-certificate or --allow-plaintext-beyond-loopback"
    ANYBODY = "--authentication enforce, --tls-client-ca or --allow-anonymous-beyond-loopback"

    def test_it_needs_both_tls_and_authentication(self) -> None:
        assert refusal(listen="0.0.0.0:50051") == (
            "--listen (or HANDFAST_USERS_LISTEN) is 0.0.0.0:50051, which other machines may reach in plain text and "
            f"without authentication; listen on loopback, or say {self.PLAIN}, and {self.ANYBODY}"
        )

    def test_what_is_allowed_or_given_is_not_asked_for_again(self, authority: Authority) -> None:
        server = authority.server()
        tls = {"tls_certificate": server.certificate, "tls_key": server.key}
        for listen in ("0.0.0.0:50051", "[::]:50051", "db.example.com:50051"):
            assert refusal(listen=listen, allow_plaintext_beyond_loopback=True).endswith(f"or say {self.ANYBODY}")
            assert refusal(listen=listen, **tls).endswith(f"or say {self.ANYBODY}")
            assert refusal(listen=listen, allow_anonymous_beyond_loopback=True).endswith(f"or say {self.PLAIN}")
            settings(listen=listen, **tls, tls_client_ca=authority.file)
            settings(listen=listen, **tls, allow_anonymous_beyond_loopback=True)
            settings(listen=listen, allow_plaintext_beyond_loopback=True, allow_anonymous_beyond_loopback=True)

    def test_metrics_need_tls_and_may_be_read_by_whom_it_lets_in(self, authority: Authority) -> None:
        server = authority.server()
        assert refusal(metrics_listen="10.0.0.1:9090").endswith(f"or say {self.PLAIN}")
        settings(metrics_listen="10.0.0.1:9090", tls_certificate=server.certificate, tls_key=server.key)
        settings(metrics_listen="10.0.0.1:9090", allow_plaintext_beyond_loopback=True)

    def test_what_is_loopback_and_what_is_not(self) -> None:
        for listen in ("127.0.0.1:1", "127.0.0.2:1", "[::1]:1", "localhost:1", "LocalHost:1"):
            assert settings(listen=listen).listen == listen
            assert settings(metrics_listen=listen).metrics_listen == listen
        # What a name resolves to may change, and other ways to write a number are the resolver's.
        for listen in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "127.1:1", "localhost.example.com:1", "*:1"):
            assert "other machines may reach" in refusal(listen=listen)
            assert "other machines may reach" in refusal(metrics_listen=listen)
        for listen in ("unix:/run/users.sock", ":1", "::1:1"):
            assert "must be HOST:PORT" in refusal(listen=listen)

    def test_observing_is_no_authentication_and_mutual_tls_is(self, authority: Authority) -> None:
        server = authority.server()
        tls = {"tls_certificate": server.certificate, "tls_key": server.key}
        observing = {"authentication": "observe", "token_keys": "https://keys.test", "token_issuer": "i"}
        observing |= {"token_audience": "a"}
        assert refusal(listen="0.0.0.0:1", **tls, **observing).endswith(f"or say {self.ANYBODY}")
        settings(listen="0.0.0.0:1", **tls, **observing, tls_client_ca=authority.file)
