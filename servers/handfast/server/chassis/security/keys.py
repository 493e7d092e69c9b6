"""The public keys that tokens are signed with: a JSON Web Key Set (RFC 7517)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWTError

# A secret that is shared signs as well as it verifies, and a public key taken for one would let everybody sign, so
# there are asymmetric algorithms only, and what kind of key goes with which is fixed here (RFC 8725, 3.1 and 3.2).
_ALGORITHMS: Final[Mapping[tuple[object, object], tuple[str, ...]]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ALGORITHMS: Final = frozenset(name for names in _ALGORITHMS.values() for name in names)
"""Those by which a token may be signed (RFC 7518, RFC 8037)."""
MIN_RSA_BITS = 2048
"""Of a key for RSA (RFC 7518, 3.3)."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and the algorithms that a token may be signed by with it."""

    key: Any
    algorithms: tuple[str, ...]


class KeySet:
    """Keys by their `kid`. A token without one is signed with the only key there is."""

    def __init__(self, keys: Mapping[str | None, Key]) -> None:
        self._keys = keys

    def find(self, kid: str | None) -> Key | None:
        """None where there is no such key."""
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)


def parse_keys(data: bytes) -> KeySet:
    """The keys of a set that can verify tokens; others, such as those for encryption, are left out, and logged.

    Raises ValueError where it is no key set, has no such key, two with the same `kid`, or one that is not public.
    """
    try:
        listed = json.loads(data)["keys"]
        entries = [dict(entry) for entry in listed]
    except (KeyError, RecursionError, TypeError, ValueError):
        raise ValueError("it is no JSON Web Key Set, which has a list of keys by the name `keys`") from None
    keys: dict[str | None, Key] = {}
    left_out: dict[str, str] = {}
    for entry in entries:
        kid = entry.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise ValueError("a key has a `kid` that is no text")
        if "d" in entry or entry.get("kty") == "oct":
            raise ValueError(f"key {kid} is a secret; only public keys belong there")
        try:
            key = _parse(entry)
        except TypeError:
            left_out[str(kid)] = "it is malformed"
        except ValueError as error:
            left_out[str(kid)] = str(error)
        else:
            if kid in keys:
                raise ValueError(f"two keys have the `kid` {kid}")
            keys[kid] = key
    if not keys:
        raise ValueError(f"it has no key that tokens can be signed with: {left_out or 'it is empty'}")
    _log.info("keys of tokens", kids=[str(kid) for kid in keys], left_out=left_out)
    return KeySet(keys)


def _parse(entry: dict[str, Any]) -> Key:
    """Raises ValueError where tokens cannot be verified with the key."""
    algorithms = _ALGORITHMS.get((entry.get("kty"), entry.get("crv")))
    if algorithms is None:
        raise ValueError("tokens are not signed with its kind")
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        raise ValueError("it is not for signatures")
    if (algorithm := entry.get("alg")) is not None:
        algorithms = tuple(name for name in algorithms if name == algorithm)
        if not algorithms:
            raise ValueError("tokens are not signed by its algorithm")
    try:
        key = PyJWK(entry, algorithms[0]).key
    except (PyJWTError, ValueError):
        raise ValueError("it is malformed") from None
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise ValueError(f"it has {key.key_size} bits; RSA needs {MIN_RSA_BITS}")
    return Key(key, algorithms)
