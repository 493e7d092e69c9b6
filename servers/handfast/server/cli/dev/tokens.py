"""A key that signs tokens for development, and the tokens (JWT, RFC 7519)."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from handfast.server.cli.dev.certificates import TRUST_DOMAIN, read_key

ISSUER = f"https://dev-tokens.{TRUST_DOMAIN}"
AUDIENCE = "handfast-dev"
_ALGORITHM = "ES256"
_KEY_ID = "dev-1"


def key_set(key: ec.EllipticCurvePrivateKey) -> str:
    """The public key as a JWKS (RFC 7517), by which servers check tokens."""
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return json.dumps({"keys": [public | {"kid": _KEY_ID, "use": "sig", "alg": _ALGORITHM}]}, indent=2) + "\n"


def issue(key_pem: bytes, subject: str, scopes: Sequence[str], expires: int) -> str:
    """A token that lets `subject` do what the scopes allow until `expires`, in seconds since 1970."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "scope": " ".join(scopes),
        "iat": now,
        "nbf": now,
        "exp": expires,
        "jti": uuid.uuid4().hex,
    }
    return jwt.encode(claims, read_key(key_pem), _ALGORITHM, {"kid": _KEY_ID})


def subject(token: bytes) -> str:
    """Whom a token is for, whoever has signed it and whether or not it has expired. Raises ValueError for what is no
    token."""
    try:
        claims: dict[str, str] = jwt.decode(token.strip(), options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise ValueError("it is no token") from error
    return claims["sub"]
