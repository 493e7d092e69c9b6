"""Checks a JSON Web Token (RFC 7519) as RFC 8725 has it, and RFC 9068 where all issuers of access tokens keep to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from handfast.server.chassis.errors import NotAuthenticated, Problem
from handfast.server.chassis.security.keys import ALGORITHMS, Key

MAX_CHARACTERS = 8 * 1024
"""Of a token."""
# Three parts in base64url (RFC 7515, 7.1). The library passes over other characters and padding, so that who has one
# good token could make any number of it.
_COMPACT: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)

LAST_EXPIRY_EPOCH_S = 253_402_300_799
"""The end of the year 9999. A number beyond it is not in seconds, such as one in milliseconds."""

_TYPES: Final = ("jwt", "at+jwt", "application/at+jwt")
"""What may be in `typ`, for tokens that say it (RFC 9068, 4). Others are signed with the same keys for other uses."""
_REQUIRED: Final = ("exp", "iss", "aud", "sub")
_MISSING: Final[Mapping[str, tuple[Problem, str]]] = {
    "exp": ("no_expiry", "The token has no expiry (`exp`)."),
    "iss": ("wrong_issuer", "The token does not say who issued it (`iss`)."),
    "aud": ("wrong_audience", "The token does not say whom it is meant for (`aud`)."),
}
# The first that fits counts. What the library says may quote the token, so nothing of it is passed on.
_PROBLEMS: Final[tuple[tuple[type[jwt.InvalidTokenError], Problem, str], ...]] = (
    (jwt.ExpiredSignatureError, "expired", "The token has expired."),
    (jwt.ImmatureSignatureError, "not_yet_valid", "The token is not valid yet."),
    (jwt.InvalidIssuerError, "wrong_issuer", "The token comes from another issuer than this server trusts."),
    (jwt.InvalidAudienceError, "wrong_audience", "The token is meant for another service."),
    (jwt.InvalidSignatureError, "bad_signature", "The token's signature is not that of its key."),
    (jwt.InvalidAlgorithmError, "forbidden_algorithm", "The token is signed by an algorithm that its key is not for."),
)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says that was checked.

    id                the token's own (`jti`); None where it has none
    expires_epoch_s   when it counts no more, the leeway included, in seconds since the epoch
    """

    issuer: str
    subject: str
    scopes: frozenset[str]
    id: str | None
    expires_epoch_s: float


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """What tokens must say: who issued them, whom they are meant for, and from when until when they count. Clocks may
    differ by `leeway_s` seconds."""

    issuer: str
    audience: str
    leeway_s: float

    def claims(self, token: str, key: Key) -> Claims:
        """What `token` says, if it is signed with `key`. Raises NotAuthenticated, which quotes nothing of it."""
        problem = _malformed("is no JSON Web Token with the claims that are required")
        try:  # the library may let through what Python raises for values that it has not foreseen
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key.key,
                key.algorithms,
                {"require": list(_REQUIRED)},
                issuer=self.issuer,
                audience=self.audience,
                leeway=self.leeway_s,
            )
            return Claims(
                issuer=self.issuer,
                subject=_subject(claims),
                scopes=_scopes(claims),
                id=claims.get("jti"),
                expires_epoch_s=_expiry(claims) + self.leeway_s,
            )
        except jwt.MissingRequiredClaimError as error:
            if error.claim in _MISSING:
                problem = _problem(*_MISSING[error.claim])
        except (jwt.InvalidTokenError, ArithmeticError, TypeError, ValueError) as error:
            problem = next((_problem(word, text) for kind, word, text in _PROBLEMS if isinstance(error, kind)), problem)
        raise problem


def key_id(token: str) -> str | None:
    """The id of the key that the token says it is signed with. Raises NotAuthenticated for what is no token, or one
    that is signed by an algorithm that no key is for."""
    if len(token) > MAX_CHARACTERS:
        raise _problem("too_long", f"The token has {len(token)} characters; up to {MAX_CHARACTERS} are taken.")
    problem = _malformed("is no JSON Web Token")
    if not token:
        problem = _malformed("is empty")
    if token.startswith("$"):
        problem = _malformed("is the name of a variable, not its value; grpcurl needs -expand-headers for that")
    if not _COMPACT.fullmatch(token):
        raise problem
    try:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS:
            problem = _problem(
                "forbidden_algorithm", "The token is signed by an algorithm that this server does not take."
            )
        elif str(header.get("typ", _TYPES[0])).lower() not in _TYPES:
            problem = _malformed("is no access token, but of another kind (`typ`)")
        else:
            kid: str | None = header.get("kid")
            return kid
    except (jwt.InvalidTokenError, TypeError, UnicodeError):
        pass
    raise problem


def parse_revoked(data: bytes) -> frozenset[str]:
    """The ids (`jti`) of tokens that count no more, from a file that has one on each line. Empty lines and those that
    begin with `#` are left out. Raises ValueError where it is no UTF-8."""
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _subject(claims: Mapping[str, Any]) -> str:
    subject: str = claims["sub"]  # a text, as the library has checked
    if not subject:
        raise _malformed("has an empty subject (`sub`)")
    subject.encode()  # raises UnicodeError, a ValueError, for half of a character
    return subject


def _expiry(claims: Mapping[str, Any]) -> float:
    expiry = claims["exp"]
    if not isinstance(expiry, int | float) or not 0 <= expiry <= LAST_EXPIRY_EPOCH_S:
        raise _malformed("has an expiry (`exp`) that is no number of seconds")
    return expiry


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Those of `scope` (RFC 8693, 4.2), or where that is not there of `scp`, as some issuers call it: each a text with
    spaces, and nothing else, between the scopes (RFC 6749, 3.3), or a list."""
    scopes = claims.get("scope", claims.get("scp", ""))
    listed = scopes.split(" ") if isinstance(scopes, str) else scopes
    if not isinstance(listed, list) or not all(isinstance(scope, str) for scope in listed):
        raise _malformed("has scopes that are neither a text nor a list of texts")
    return frozenset(listed) - {""}


def _malformed(what: str) -> NotAuthenticated:
    return _problem("malformed", f"The token {what}.")


def _problem(problem: Problem, message: str) -> NotAuthenticated:
    return NotAuthenticated(message, problem=problem)
