"""An issuer of tokens, for tests: its keys, good tokens, and one of each kind that a server must refuse."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AUDIENCE = "handfast"
LEEWAY = 30.0
"""Seconds, as the servers have it by default."""

_NEW_KEYS: Mapping[str, Callable[[], PrivateKeyTypes]] = {
    "RS": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "PS": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


class Key:
    """A key to sign with. Its `jwk` is the public half, as a JSON Web Key Set has it (RFC 7517)."""

    def __init__(self, kid: str = "key-1", algorithm: str = "ES256") -> None:
        self.kid, self.algorithm = kid, algorithm
        new = _NEW_KEYS.get(algorithm) or _NEW_KEYS[algorithm[:2]]
        self.private: Any = new()

    @property
    def jwk(self) -> dict[str, Any]:
        to_jwk = jwt.get_algorithm_by_name(self.algorithm).to_jwk
        public: dict[str, Any] = to_jwk(self.private.public_key(), as_dict=True)
        public.pop("key_ops", None)
        return public | {"kid": self.kid, "alg": self.algorithm, "use": "sig"}

    @property
    def pem(self) -> bytes:
        """The public half."""
        public: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return public


class Issuer:
    """Signs tokens with the first of its `keys`. A server trusts it by the settings that `settings` gives."""

    def __init__(self, *keys: Key, url: str = "https://issuer.test") -> None:
        self.url = url
        self.keys = keys or (Key(),)

    @property
    def jwks(self) -> bytes:
        """The public keys, as the issuer publishes them."""
        return json.dumps({"keys": [key.jwk for key in self.keys]}).encode()

    def settings(self, folder: Path) -> dict[str, Any]:
        """Writes the keys to a file in `folder`. These settings make a server trust the tokens."""
        file = folder / "keys.json"
        file.write_bytes(self.jwks)
        return {
            "authentication": "enforce",
            "token_keys": str(file),
            "token_issuer": self.url,
            "token_audience": AUDIENCE,
        }

    def claims(self, subject: str = "ada", scopes: Iterable[str] = (), **claims: object) -> dict[str, object]:
        """Those of a good token that is valid for an hour. `claims` replace them; one that is None is left out."""
        now = int(time.time())
        all_claims: dict[str, object] = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": subject,
            "scope": " ".join(scopes),
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
        }
        return {name: value for name, value in (all_claims | claims).items() if value is not None}

    def token(self, subject: str = "ada", scopes: Iterable[str] = (), **claims: object) -> str:
        """A good token, unless `claims` (see there) make it bad."""
        return self.signed(self.claims(subject, scopes, **claims))

    def signed(self, claims: Mapping[str, object], **headers: object) -> str:
        """The claims as a token. `headers` replace those that it has by itself; one that is None is left out."""
        key = self.keys[0]
        all_headers = {"kid": key.kid} | headers
        kept = {name: value for name, value in all_headers.items() if value is not None}
        return jwt.encode(dict(claims), key.private, key.algorithm, kept)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call with this token."""
    return (("authorization", f"Bearer {token}"),)


def by_hand(header: Mapping[str, object], claims: Mapping[str, object], signature: bytes = b"") -> str:
    """A token that no library would make."""
    return f"{_unsigned(header, claims)}.{_base64url(signature)}"


def _unsigned(header: Mapping[str, object], claims: Mapping[str, object]) -> str:
    return ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _with_the_public_key_as_secret(issuer: Issuer) -> str:
    key = issuer.keys[0]
    unsigned = _unsigned({"alg": "HS256", "typ": "JWT", "kid": key.kid}, issuer.claims())
    return f"{unsigned}.{_base64url(hmac.digest(key.pem, unsigned.encode(), hashlib.sha256))}"


def _with_another_payload(issuer: Issuer) -> str:
    header, _, signature = issuer.token().split(".")
    return f"{header}.{issuer.token('eve', ('users.write',)).split('.')[1]}.{signature}"


def _with_a_key_of_its_own(issuer: Issuer) -> str:
    own = Key(issuer.keys[0].kid)
    return Issuer(own, url=issuer.url).signed(issuer.claims(), jwk=own.jwk, alg="ES256")


def _of_another_kid(issuer: Issuer) -> str:
    return Issuer(Key("unheard-of"), url=issuer.url).token()


BAD: Mapping[str, tuple[str, Callable[[Issuer], str]]] = {
    "no expiry": ("no_expiry", lambda issuer: issuer.token(exp=None)),
    "expired": ("expired", lambda issuer: issuer.token(exp=int(time.time() - LEEWAY) - 5)),
    "not yet valid": ("not_yet_valid", lambda issuer: issuer.token(nbf=int(time.time() + LEEWAY) + 3600)),
    "issued in the future": ("not_yet_valid", lambda issuer: issuer.token(iat=int(time.time() + LEEWAY) + 3600)),
    "another issuer": ("wrong_issuer", lambda issuer: issuer.token(iss="https://issuer.test.example")),
    "no issuer": ("wrong_issuer", lambda issuer: issuer.token(iss=None)),
    "another audience": ("wrong_audience", lambda issuer: issuer.token(aud=["other", "services"])),
    "no audience": ("wrong_audience", lambda issuer: issuer.token(aud=None)),
    "no subject": ("malformed", lambda issuer: issuer.token(sub=None)),
    "an empty subject": ("malformed", lambda issuer: issuer.token(sub="")),
    "a subject that is no text": ("malformed", lambda issuer: issuer.token(sub=["ada"])),
    "a subject with half of a character": ("malformed", lambda issuer: issuer.token(sub="\ud800")),
    "an expiry in a text": ("malformed", lambda issuer: issuer.token(exp=str(int(time.time()) + 60))),
    "an expiry in milliseconds": ("malformed", lambda issuer: issuer.token(exp=int(time.time() + 60) * 1000)),
    "an expiry beyond all numbers": ("malformed", lambda issuer: issuer.token(exp=10**400)),
    "a token for another use": ("malformed", lambda issuer: issuer.signed(issuer.claims(), typ="dpop+jwt")),
    "an expiry that is no number": ("malformed", lambda issuer: issuer.token(exp="tomorrow")),
    "scopes that are no text": ("malformed", lambda issuer: issuer.token(scope=7)),
    "forged": ("bad_signature", _with_another_payload),
    "signed with another key": ("bad_signature", _with_a_key_of_its_own),
    "no signature": ("bad_signature", lambda issuer: issuer.token().rpartition(".")[0] + "."),
    "a key that nobody knows": ("unknown_key", _of_another_kid),
    "alg none": (
        "forbidden_algorithm",
        lambda issuer: by_hand({"alg": "none", "typ": "JWT", "kid": issuer.keys[0].kid}, issuer.claims()),
    ),
    "alg None": ("forbidden_algorithm", lambda issuer: by_hand({"alg": "None"}, issuer.claims())),
    "no alg": ("forbidden_algorithm", lambda issuer: by_hand({"kid": issuer.keys[0].kid}, issuer.claims())),
    "HS256 with the public key": ("forbidden_algorithm", _with_the_public_key_as_secret),
    "a header that must be understood": ("malformed", lambda issuer: issuer.signed(issuer.claims(), crit=["x"], x=1)),
    "too long": ("too_long", lambda issuer: issuer.token(more="x" * 10_000)),
    "no token at all": ("malformed", lambda _: "not-a-token"),
    "empty": ("malformed", lambda _: ""),
}
"""By what is wrong: the problem that the refusal names, and how such a token is made."""
