"""`handfast dev-credentials` and `handfast dev-token`: certificates and tokens for development."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store

from handfast.server.chassis.security.grants import parse_grants
from handfast.server.cli.dev import folder
from handfast.server.cli.dev.folder import CLIENT, SERVERS, DevCredentials, made_or_make, make
from handfast.server.cli.dev.tokens import AUDIENCE, ISSUER
from handfast.server.process.command import Failure
from handfast.server.process.flags import read_settings
from handfast.server.process.settings import ServerSettings, SettingsError
from tests.cli.processes import Result
from tests.eventually import PATIENCE

Handfast = Callable[..., Result]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCredentials]:
    """A folder that was made where new files can be read by everybody."""
    before = os.umask(0)
    try:
        yield make(tmp_path_factory.mktemp("made") / "of" / "ours", ["credits"], subject="grace")
    finally:
        os.umask(before)


def _claims(made: DevCredentials, token: str) -> dict[str, Any]:
    """What a token says, checked as servers check it."""
    keys = jwt.PyJWKSet.from_json(made.token_keys.read_text())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, Any] = jwt.decode(token, key, ["ES256"], issuer=ISSUER, audience=AUDIENCE)
    return claims


def test_all_of_it_says_that_it_is_not_for_production(handfast: Handfast, tmp_path: Path) -> None:
    for command in ("dev-credentials", "dev-token"):
        assert "NOT FOR PRODUCTION" in " ".join(handfast(command, "--help").stdout.split())
    result = handfast("dev-credentials", str(tmp_path / "new"))
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith("NOT FOR PRODUCTION\n")
    assert (tmp_path / "new" / "NOT-FOR-PRODUCTION.txt").read_text() == result.stdout
    for file in (tmp_path / "new").iterdir():
        assert file.name == "NOT-FOR-PRODUCTION.txt" or file.name.startswith("dev-")
    ca = x509.load_pem_x509_certificate((tmp_path / "new" / "dev-ca.crt").read_bytes())
    assert "not for production" in ca.subject.rfc4514_string()


def test_nobody_but_its_owner_can_read_it(made: DevCredentials) -> None:
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.folder.iterdir()} == {0o600}


@pytest.mark.parametrize("name", [*SERVERS, "credits", CLIENT])
def test_the_ca_has_signed_the_certificate_of_each(made: DevCredentials, name: str) -> None:
    ca = x509.load_pem_x509_certificate(made.ca.read_bytes())
    certificate = x509.load_pem_x509_certificate(made.certificate(name).read_bytes())
    policy = PolicyBuilder().store(Store([ca]))
    for place in (
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ):
        assert policy.build_server_verifier(place).verify(certificate, [])
    as_client = policy.build_client_verifier().verify(certificate, [])
    uris = [str(each.value) for each in as_client.subjects or () if isinstance(each, x509.UniformResourceIdentifier)]
    assert uris == [f"spiffe://handfast.test/{name}"]
    key = load_pem_private_key(made.key(name).read_bytes(), None)
    assert key.public_key() == certificate.public_key()


def test_servers_are_granted_what_they_do_at_each_other_and_clients_nothing(made: DevCredentials) -> None:
    grants = tomllib.loads(made.grants.read_text())["grants"]
    assert set(grants) == {f"spiffe://handfast.test/{name}" for name in (*SERVERS, "credits")}
    for participant in ("users", "preferences", "credits"):
        assert grants[f"spiffe://handfast.test/{participant}"] == ["transactions.run", "transactions.resolve"]


@pytest.mark.parametrize(
    ("role", "subject", "scope"),
    [
        (
            "admin",
            "admin",
            "users.read users.write preferences.read preferences.write preferences.define transactions.run "
            "credits.read credits.write",
        ),
        ("operator", "operator", "transactions.run transactions.operate branches.read"),
        ("user", "grace", "self transactions.run"),
    ],
)
def test_a_token_says_for_whom_it_is_and_what_it_allows(
    made: DevCredentials, role: str, subject: str, scope: str
) -> None:
    claims = _claims(made, made.token(role).read_text().strip())
    assert (claims["sub"], claims["scope"]) == (subject, scope)


def test_a_token_of_one_s_own_is_signed_by_the_same_key(handfast: Handfast, made: DevCredentials) -> None:
    arguments = ("--subject", "ada", "--scope", "self", "--scope", "users.read", "--seconds", "60")
    result = handfast("dev-token", str(made.folder), *arguments)
    assert (result.status, result.stderr) == (0, "")
    claims = _claims(made, result.stdout.strip())
    assert (claims["sub"], claims["scope"], claims["exp"] - claims["iat"]) == ("ada", "self users.read", 60)
    assert claims["jti"] != _claims(made, made.token("admin").read_text().strip())["jti"]


def test_a_folder_that_is_there_is_left_as_it_is(handfast: Handfast, made: DevCredentials) -> None:
    before = {file.name: file.read_bytes() for file in made.folder.iterdir()}
    result = handfast("dev-credentials", str(made.folder))
    line = f"{made.folder} is there already; --renew renews what is in it, or name another folder"
    assert result == Result(2, "", f"handfast: dev-credentials: {line}\n")
    assert {file.name: file.read_bytes() for file in made.folder.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_told_and_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"^cannot write .*/file/new: File exists$"):
        make(tmp_path / "file" / "new")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["users", "branches", "ca", "client", "tokens", "Credits", "../credits", ""])
def test_a_server_s_name_is_its_own_and_no_other_file_s(tmp_path: Path, name: str) -> None:
    with pytest.raises(Failure, match="cannot be the name of another server"):
        make(tmp_path / "new", [name])
    assert not (tmp_path / "new").exists()


def test_a_token_needs_a_folder_with_a_key(handfast: Handfast, tmp_path: Path) -> None:
    result = handfast("dev-token", str(tmp_path), "--subject", "ada")
    line = f"handfast: dev-token: cannot read {tmp_path}/dev-tokens.key: No such file or directory\n"
    assert result == Result(2, "", line)


def test_what_clients_take_their_credentials_from_can_be_read_into_a_shell(made: DevCredentials) -> None:
    lines = made.client_variables.read_text().splitlines()
    exported = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
    assert exported == made.of_client()
    assert all(Path(file).is_file() for file in exported.values())
    assert json.loads(made.token_keys.read_text())["keys"]


def test_credentials_are_used_again(tmp_path: Path) -> None:
    made = made_or_make(tmp_path / "credentials", ["credits"])
    before = {file.name: file.read_bytes() for file in made.folder.iterdir()}
    assert made_or_make(tmp_path / "credentials", ["credits"]) == made
    assert {file.name: file.read_bytes() for file in made.folder.iterdir()} == before


def test_credentials_of_a_participant_that_comes_later_are_made_beside_those_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = made_or_make(tmp_path / "credentials")
    token = made.issue("ada", ["self"], 600)
    with made.revoked_tokens.open("a") as revoked:
        revoked.write("stolen\n")
    with made.grants.open("a") as grants:
        grants.write('"spiffe://handfast.test/reports" = ["users.read"]\n')
    keys = [file.read_bytes() for file in (made.ca_key, made.signing_key, made.token_keys)]
    assert made_or_make(tmp_path / "credentials", ["credits"]) == made
    assert capsys.readouterr().out == (f"Renewed the credentials for development, as credits had none: {made.folder}\n")
    # What runs by the old files goes on: neither the CA nor who signs tokens has become another one.
    assert [file.read_bytes() for file in (made.ca_key, made.signing_key, made.token_keys)] == keys
    assert made.revoked_tokens.read_text() == "stolen\n"
    granted = parse_grants(made.grants.read_bytes())
    assert granted["spiffe://handfast.test/reports"] == {"users.read"}
    assert granted["spiffe://handfast.test/credits"] == granted["spiffe://handfast.test/users"]
    assert {"credits.read", "users.read"} <= set(
        _claims(made, made.token("admin").read_text().strip())["scope"].split()
    )
    assert _claims(made, token)["sub"] == "ada"
    lines = made.server_variables("credits").read_text().splitlines()
    exported = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
    assert read_settings(ServerSettings, "credits", "127.0.0.1:0", {}, exported).own_certificates() is not None
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.folder.iterdir()} == {0o600}
    assert made_or_make(tmp_path / "credentials", ["credits"]) == made
    assert capsys.readouterr().out == ""


def test_credentials_that_have_expired_are_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "credentials"
    with monkeypatch.context() as patched:
        patched.setattr(folder, "VALID_DAYS", 0)
        made = make(place, ["credits"], subject="grace")
    with pytest.raises(SettingsError, match="expired at"):
        read_settings(ServerSettings, "users", "127.0.0.1:0", {}, made.of_server("users"))
    ca_key = made.ca_key.read_bytes()
    made_or_make(place)
    printed = capsys.readouterr().out
    assert printed.startswith("Renewed the credentials for development, as they were to expire at 20")
    assert printed.endswith(f" UTC: {made.folder}\n")
    for name in ("users", "credits"):
        certificate = x509.load_pem_x509_certificate(made.certificate(name).read_bytes())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(made.ca.read_bytes()))
        assert certificate.not_valid_after_utc == made.expires > datetime.datetime.now(datetime.UTC)
    assert made.ca_key.read_bytes() == ca_key
    assert _claims(made, made.token("user").read_text().strip())["sub"] == "grace"
    read_settings(ServerSettings, "users", "127.0.0.1:0", {}, made.of_server("users"))


@pytest.mark.parametrize("file", ["dev-ca.key", "dev-users.key", "dev-user.token", "dev-ca.crt"])
def test_a_renewal_that_was_killed_is_made_up_for_and_leaves_no_keys(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(tmp_path / "credentials")
    token = made.token("user").read_bytes()
    killed_before = f"""
import os, pathlib, signal
from handfast.server.cli.dev.folder import renew
rename = pathlib.Path.rename
def rename_or_die(path, target):
    if target.name == {file!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
pathlib.Path.rename = rename_or_die
renew(pathlib.Path({str(made.folder)!r}))
"""
    assert subprocess.run([sys.executable, "-c", killed_before], timeout=PATIENCE).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    made_or_make(made.folder)
    assert "as the last command that renewed them did not come to its end" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [made.folder]
    assert made.token("user").read_bytes() != token
    for name in SERVERS:
        settings = read_settings(ServerSettings, name, "127.0.0.1:0", {}, made.of_server(name))
        assert settings.own_certificates() is not None
    made_or_make(made.folder)
    assert capsys.readouterr().out == ""


def test_the_ca_tells_that_a_renewal_was_killed_though_somebody_has_removed_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path / "credentials")
    renamed: list[str] = []
    rename = Path.rename

    def noted(path: Path, target: Path) -> Path:
        renamed.append(path.name)
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", noted)
        folder.renew(made.folder)
    assert renamed[-1] == made.ca.name


def test_a_folder_that_another_command_renews_is_left_to_it(made: DevCredentials) -> None:
    before = made.ca.read_bytes()
    with (
        folder._scratch(made),
        pytest.raises(Failure, match=r"^another command makes or renews .*ours at this moment$"),
    ):
        folder.renew(made.folder)
    assert made.ca.read_bytes() == before


def test_credentials_without_the_keys_to_renew_them_are_told_and_stay(tmp_path: Path) -> None:
    made = made_or_make(tmp_path / "credentials")
    made.ca_key.unlink()
    before = {file.name: file.read_bytes() for file in made.folder.iterdir()}
    with pytest.raises(Failure, match=r"^cannot read .*/dev-ca.key: No such file or directory$"):
        made_or_make(tmp_path / "credentials", ["credits"])
    assert {file.name: file.read_bytes() for file in made.folder.iterdir()} == before


def test_a_folder_is_renewed_and_given_further_servers_and_another_user(handfast: Handfast, tmp_path: Path) -> None:
    made = make(tmp_path / "credentials")
    before = made.certificate("users").read_bytes()
    result = handfast("dev-credentials", str(made.folder), "--renew", "--server", "credits", "--subject", "grace")
    assert (result.status, result.stderr) == (0, "")
    assert made.names == ["accounts", "credits", "preferences", "users"]
    assert made.certificate("users").read_bytes() != before
    assert _claims(made, made.token("user").read_text().strip())["sub"] == "grace"


def test_what_is_no_such_folder_is_not_renewed(handfast: Handfast, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    result = handfast("dev-credentials", str(tmp_path / "other"), "--renew")
    line = f"cannot read {tmp_path}/other/dev-user.token: No such file or directory"
    assert result == Result(2, "", f"handfast: dev-credentials: {line}\n")
    assert list((tmp_path / "other").iterdir()) == []


def test_a_folder_with_a_damaged_file_is_told_and_stays(tmp_path: Path) -> None:
    made = make(tmp_path / "credentials")
    for file in (made.grants, made.ca_key, made.signing_key, made.token("user")):
        content = file.read_bytes()
        file.write_bytes(b"[damaged")
        before = {each.name: each.read_bytes() for each in made.folder.iterdir()}
        with pytest.raises(Failure, match=r"^cannot renew .*, in which a file is damaged: .*; remove the folder$"):
            folder.renew(made.folder)
        assert {each.name: each.read_bytes() for each in made.folder.iterdir()} == before
        file.write_bytes(content)
