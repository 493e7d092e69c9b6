"""Who is let in, and what everybody else is told."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from handfast.server.chassis.logs.redaction import without_tokens
from handfast.server.chassis.security import authenticator as module
from handfast.server.chassis.security.authenticator import Authenticator
from handfast.server.chassis.security.grants import parse_grants
from handfast.server.chassis.security.identity import Identity
from handfast.server.process.settings import SettingsError
from tests.project.readme import OBSERVABILITY, quoted, table
from tests.security.authority import Authority
from tests.security.conftest import authenticate, refusal, server_settings
from tests.security.issuer import BAD, LEEWAY, Issuer, Key

Names = Sequence[x509.GeneralName]


@pytest.fixture(scope="module")
def authenticator(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Authenticator:
    return Authenticator(server_settings(**issuer.settings(tmp_path_factory.mktemp("keys"))))


def test_a_good_token_says_who_calls_and_what_they_may_do(authenticator: Authenticator, issuer: Issuer) -> None:
    token = issuer.token("ada", ["users.read", "users.write"])
    expected = Identity.of_token(issuer.url, "ada", ["users.read", "users.write"])
    assert authenticate(authenticator, token) == expected
    assert authenticate(authenticator, token) == expected  # as it is remembered
    assert (expected.subject, expected.name, len(expected.digest)) == ("ada", "", 32)


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_tokens_may_be_signed_by_any_asymmetric_algorithm(algorithm: str, tmp_path: Path) -> None:
    issuer = Issuer(Key("one", algorithm), Key("two"))
    authenticator = Authenticator(server_settings(**issuer.settings(tmp_path)))
    assert authenticate(authenticator, issuer.token("ada")).subject == "ada"


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> bytes:
    return authority.client().certificate.read_bytes()


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_token_is_refused_with_its_problem_and_never_quoted(
    kind: str, authenticator: Authenticator, issuer: Issuer, certificate: bytes
) -> None:
    problem, make = BAD[kind]
    token = make(issuer)
    for _ in range(2):  # bad ones are not remembered as good
        error = refusal(authenticator, token, certificate=certificate)  # which is no way out
        assert (error.reason, error.values) == ("UNAUTHENTICATED", {"problem": problem})
        assert error.message.endswith(".")
        for part in filter(None, token.split(".")):
            assert part not in error.message


def test_a_call_without_token_and_certificate_is_refused(authenticator: Authenticator) -> None:
    assert refusal(authenticator).values == {"problem": "missing"}


_NEITHER = "it has neither a SPIFFE ID nor a DNS name (subjectAltName)"
_NO_DNS_NAME = "its first DNS name is a wildcard, or no such name"
_NO_SPIFFE_ID = "its SPIFFE ID breaks a rule; such as spiffe://example.org/users is right"


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([x509.RFC822Name("ada@example.com")], _NEITHER),
        ([x509.UniformResourceIdentifier("https://users.test")], _NEITHER),
        ([x509.DNSName("users.test\0.example.com")], _NO_DNS_NAME),
        ([x509.DNSName("users.test\n")], _NO_DNS_NAME),
        ([x509.DNSName("")], _NO_DNS_NAME),
        ([x509.DNSName("*.test"), x509.DNSName("users.test")], _NO_DNS_NAME),
        ([x509.UniformResourceIdentifier("spiffe://handfast.test/users\0x")], _NO_SPIFFE_ID),
        ([x509.UniformResourceIdentifier("SPIFFE://handfast.test/users"), x509.DNSName("users.test")], _NO_SPIFFE_ID),
        ([x509.UniformResourceIdentifier("spiffe://handfast.test/x/../users")], _NO_SPIFFE_ID),
        ([x509.UniformResourceIdentifier("spiffe://handfast.test/users/")], _NO_SPIFFE_ID),
        (
            [
                x509.UniformResourceIdentifier("https://users.test"),
                x509.UniformResourceIdentifier("spiffe://handfast.test/users"),
                x509.DNSName("users.test"),
            ],
            "beside a SPIFFE ID it has other URIs, and may have none",
        ),
    ],
    ids=[
        *("mail address", "other URI", "NUL in a DNS name", "line break", "empty", "wildcard"),
        *("NUL in a SPIFFE ID", "upper case", "dots", "slash", "several URIs"),
    ],
)
def test_a_certificate_that_names_nobody_for_certain_is_refused_by_what_is_wrong_with_it(
    names: Names, why: str, authenticator: Authenticator, authority: Authority
) -> None:
    error = refusal(authenticator, certificate=authority.client(names=names).certificate.read_bytes())
    assert error.values == {"problem": "nameless_certificate"}
    assert error.message == f"The client certificate names nobody: {why}."


def test_a_certificate_that_cannot_be_read_is_refused(authenticator: Authenticator) -> None:
    error = refusal(authenticator, certificate=b"-----BEGIN CERTIFICATE-----")
    assert error.message == "The client certificate names nobody: it cannot be read."


def test_two_authorizations_are_refused_even_if_both_are_good(authenticator: Authenticator, issuer: Issuer) -> None:
    token = issuer.token()
    authenticate(authenticator, token)
    error = refusal(authenticator, token, metadata=[("authorization", f"Bearer {token}")])
    assert error.values == {"problem": "repeated"}


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        ("Basic YWRhOmh1bnRlcjI=", "The authorization is not of the scheme Bearer."),
        ("Bearer ", "The token is empty."),
        (
            "Bearer ${TOKEN}",
            "The token is the name of a variable, not its value; grpcurl needs -expand-headers for that.",
        ),
    ],
)
def test_who_calls_wrongly_is_told_how_it_looks_from_here(
    authorization: str, message: str, authenticator: Authenticator
) -> None:
    error = refusal(authenticator, metadata=[("authorization", authorization)])
    assert (error.values, error.message) == ({"problem": "malformed"}, message)
    assert without_tokens(message) == message


@pytest.mark.parametrize("authorization", ["Basic YWRhOmh1bnRlcjI=", "", "Bearer", b"Bearer \xff", "token"])
def test_an_authorization_that_is_no_bearer_token_is_malformed(
    authorization: str | bytes, authenticator: Authenticator, certificate: bytes
) -> None:
    metadata = [("authorization", authorization)]
    assert refusal(authenticator, metadata=metadata, certificate=certificate).values == {"problem": "malformed"}


def test_the_scheme_has_no_case(authenticator: Authenticator, issuer: Issuer) -> None:
    metadata = [("authorization", f"bEARER  {issuer.token('ada')}")]
    assert authenticate(authenticator, metadata=metadata).subject == "ada"


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "users.read  users.write"}, {"users.read", "users.write"}),
        ({"scope": None, "scp": ["users.read"]}, {"users.read"}),
        ({"scope": None, "scp": "users.read self"}, {"users.read", "self"}),
        ({"scope": None}, set()),
        ({"scope": "users.read", "scp": ["users.write"]}, {"users.read"}),
        ({"scope": " users.read\u00a0self\tself\nself "}, {"users.read\u00a0self\tself\nself"}),
    ],
    ids=["a text", "a list", "a text by another name", "none", "both", "what is no space"],
)
def test_scopes_come_from_scope_or_scp(
    claims: dict[str, object], scopes: set[str], authenticator: Authenticator, issuer: Issuer
) -> None:
    assert authenticate(authenticator, issuer.token(**claims)).scopes == scopes  # type: ignore[arg-type]


def test_one_audience_of_several_is_enough(authenticator: Authenticator, issuer: Issuer) -> None:
    assert authenticate(authenticator, issuer.token("ada", aud=["other", "handfast"])).subject == "ada"


def test_the_clocks_of_issuer_and_server_may_differ_by_the_leeway(authenticator: Authenticator, issuer: Issuer) -> None:
    now = int(time.time())
    authenticate(authenticator, issuer.token(exp=now - int(LEEWAY) + 20))
    authenticate(authenticator, issuer.token(nbf=now + int(LEEWAY) - 5, iat=now + int(LEEWAY) - 5))


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/AT+JWT"])
def test_an_access_token_may_say_that_it_is_one(typ: str, authenticator: Authenticator, issuer: Issuer) -> None:
    assert authenticate(authenticator, issuer.signed(issuer.claims("ada"), typ=typ)).subject == "ada"


def test_a_token_without_kid_is_signed_with_the_only_key(tmp_path: Path) -> None:
    one = Issuer(Key("one"))
    authenticator = Authenticator(server_settings(**one.settings(tmp_path)))
    assert authenticate(authenticator, one.signed(one.claims("ada"), kid=None)).subject == "ada"
    two = Issuer(Key("one"), Key("two"))
    authenticator = Authenticator(server_settings(**two.settings(tmp_path)))
    assert refusal(authenticator, two.signed(two.claims("ada"), kid=None)).values == {"problem": "unknown_key"}


def test_a_token_is_remembered_until_it_expires(
    authenticator: Authenticator, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires = int(time.time()) + 100
    token = issuer.token("ada", exp=expires)
    identity = authenticate(authenticator, token)
    with monkeypatch.context() as patched:
        patched.setattr(module, "key_id", _must_not_be_called)
        assert authenticate(authenticator, token) is identity
        patched.setattr(time, "time", lambda: expires + LEEWAY)
        with pytest.raises(AssertionError):
            authenticate(authenticator, token)


def test_no_more_tokens_are_remembered_than_fit(
    authenticator: Authenticator, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CHECKED", 2)
    tokens = [issuer.token(f"user-{number}") for number in range(4)]
    for token in tokens:
        authenticate(authenticator, token)
    assert len(authenticator._checked) == 2
    monkeypatch.setattr(module, "key_id", _must_not_be_called)
    assert [authenticate(authenticator, token).subject for token in tokens[2:]] == ["user-2", "user-3"]


def test_a_token_is_remembered_once_however_it_is_written(authenticator: Authenticator, issuer: Issuer) -> None:
    token, before = issuer.token("ada"), len(authenticator._checked)
    for written in (f"Bearer {token}", f"bearer {token}", f"BEARER    {token}", f"Bearer {token}   "):
        assert authenticate(authenticator, metadata=[("authorization", written)]).subject == "ada"
    assert len(authenticator._checked) == before + 1


@pytest.mark.parametrize("more", ["=", "==", "====", "!!!!", "\n", " x"])
def test_more_than_the_token_is_no_token(authenticator: Authenticator, issuer: Issuer, more: str) -> None:
    for token in (issuer.token("ada") + more, issuer.token("ada").replace(".", f"{more}.")):
        assert refusal(authenticator, token).values == {"problem": "malformed"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            b'[grants]\nreports.example.com = ["users.read"]',
            'such as "reports" = ["users.read"], with the name in quotes',
        ),
        (b'[grants]\n"x" = ["users.read users.write"]', "have 'users.read users.write', which is no scope"),
        (b'[grants]\n"x" = ["{server}.read"]', "have '{server}.read'; say the name of a server in place of {server}"),
        (b'[grants]\n"*.test" = []', "it grants to '*.test', which is neither a SPIFFE ID nor a DNS name without"),
        (b'[grants]\n"x" = ["self"]', "have 'self', which is for tokens"),
        (b'[grants\n"x" = []', "at line 1, column 8"),
        (b"\xff", "it is not text in UTF-8"),
    ],
    ids=["no quotes", "two in one", "the word for servers", "wildcard", "self", "no TOML", "no text"],
)
def test_grants_that_cannot_be_meant_are_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        parse_grants(content)


def test_a_grant_of_a_scope_that_looks_misspelt_is_logged_and_of_another_server_s_is_not() -> None:
    known = ("users.read", "users.write", "branches.read", "callers.forward")
    granted = (
        b'\xef\xbb\xbf[grants]\n"x" = ["user.read", "users.write", "preferences.read", "orders.read", "self.service"]'
    )
    with capture_logs() as logs:
        assert parse_grants(granted, known)["x"] > {"user.read", "users.write"}
    assert [(line["certificate"], line["scope"], line["meant"]) for line in logs] == [("x", "user.read", "users.read")]


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ([x509.UniformResourceIdentifier("spiffe://handfast.test/users")], "spiffe://handfast.test/users"),
        (
            [x509.DNSName("users.test"), x509.UniformResourceIdentifier("spiffe://handfast.test/users")],
            "spiffe://handfast.test/users",
        ),
        ([x509.DNSName("users.test"), x509.DNSName("*.test")], "users.test"),
        ([x509.UniformResourceIdentifier("https://handfast.test"), x509.DNSName("users.test")], "users.test"),
    ],
    ids=["SPIFFE ID", "SPIFFE ID and DNS name", "DNS names", "other URI and DNS name"],
)
def test_a_certificate_has_the_scopes_that_its_name_was_granted(
    names: Names, name: str, issuer: Issuer, authority: Authority, tmp_path: Path
) -> None:
    grants = tmp_path / "grants.toml"
    grants.write_text('[grants]\n"spiffe://handfast.test/users" = ["transactions.run"]\n"users.test" = []\n')
    settings = server_settings(**issuer.settings(tmp_path))
    object.__setattr__(settings, "certificate_grants", str(grants))  # which for a server needs mutual TLS
    certificate = authority.client(names=names).certificate.read_bytes()
    for _ in range(2):  # the second time as it is remembered
        identity = authenticate(Authenticator(settings), certificate=certificate)
        assert identity == Identity.of_certificate(name, ["transactions.run"] if name.startswith("spiffe") else [])
        assert identity.subject == ""


def test_a_certificate_is_nobody_elses_token() -> None:
    assert Identity.of_token("certificate", "x", []).digest != Identity.of_certificate("x", []).digest
    assert Identity.of_token("a", "b", []).digest != Identity.of_token("b", "a", []).digest


@pytest.mark.parametrize(
    ("setting", "content", "complaint"),
    [
        ("token_keys", None, "which cannot be read: No such file or directory"),
        ("token_keys", "{}", "which breaks a rule: it is no JSON Web Key Set"),
        ("token_keys", "[" * 100_000, "which breaks a rule: it is no JSON Web Key Set"),
        ("token_keys", '{"keys": []}', "it has no key that tokens can be signed with"),
        ("token_keys", '{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]}', "key a is a secret"),
        ("token_keys", '{"keys": [{"kty": ["EC"], "kid": "a"}]}', "it is malformed"),
        ("revoked_tokens", None, "which cannot be read: No such file or directory"),
    ],
    ids=["no file", "no set", "deep", "empty", "secret", "malformed", "no list"],
)
def test_a_server_with_a_bad_file_does_not_start(
    setting: str, content: str | None, complaint: str, issuer: Issuer, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        Authenticator(server_settings(**issuer.settings(tmp_path) | {setting: str(file)}))
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(f"--{setting.replace('_', '-')} (or HANDFAST_{setting.upper()}) is {file}, ")


def test_a_file_that_everybody_can_write_is_not_trusted(issuer: Issuer, tmp_path: Path) -> None:
    settings = server_settings(**issuer.settings(tmp_path))
    Path(settings.token_keys).chmod(0o666)
    with pytest.raises(
        SettingsError, match=r"which breaks a rule: everybody can write it \(mode 0666\); say chmod o-w$"
    ):
        Authenticator(settings)


def test_its_metrics_are_those_that_are_documented(authenticator: Authenticator) -> None:
    registry = CollectorRegistry()
    authenticator.register(registry)
    refusal(authenticator)
    found = {
        (family.name + "_total" * (family.type == "counter"), family.type, *family.samples[0].labels)
        for family in registry.collect()
    }
    rows = table(OBSERVABILITY, "metric", "type", "labels", "says where authentication is on")
    assert found <= {(quoted(name)[0], type_, *quoted(labels)) for name, type_, labels, _ in rows}
    assert registry.get_sample_value("handfast_authentications_total", {"result": "missing"}) != 0
    assert registry.get_sample_value("handfast_trust_failures_total", {"source": "token_keys"}) == 0
    assert (registry.get_sample_value("handfast_trust_age_seconds", {"source": "token_keys"}) or -1) >= 0


def test_a_revoked_token_is_refused(issuer: Issuer, tmp_path: Path) -> None:
    revoked = tmp_path / "revoked"
    revoked.write_text("# stolen in May\n\n bad-1 \nbad-2\r\n")
    authenticator = Authenticator(server_settings(**issuer.settings(tmp_path), revoked_tokens=str(revoked)))
    for id in ("bad-1", "bad-2"):
        assert refusal(authenticator, issuer.token(jti=id)).values == {"problem": "revoked"}
    for other in ("good", "# stolen in May", None):
        authenticate(authenticator, issuer.token(jti=other))


def _must_not_be_called(*_: object) -> None:
    raise AssertionError("it was looked at again")
