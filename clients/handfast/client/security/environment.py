"""TLS and the token of a client, from variables of its environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from handfast.client.security.tls import TLS

CA, CERTIFICATE, KEY, TOKEN_FILE = "HANDFAST_CA", "HANDFAST_CERTIFICATE", "HANDFAST_KEY", "HANDFAST_TOKEN_FILE"


def tls() -> TLS | None:
    """None where no variable names a file. Raises ValueError."""
    ca, certificate, key = (os.environ.get(name) or None for name in (CA, CERTIFICATE, KEY))
    if (certificate is None) != (key is None):
        given, lacking = (KEY, CERTIFICATE) if certificate is None else (CERTIFICATE, KEY)
        raise ValueError(f"{lacking}: is needed, too, where {given} is given")
    return TLS(ca, certificate, key) if ca or certificate else None


def token() -> Callable[[], str] | None:
    """None where no variable names a file. Raises ValueError where the file cannot be read."""
    path = os.environ.get(TOKEN_FILE)
    return token_in(path, TOKEN_FILE) if path else None


def token_in(path: str | os.PathLike[str], setting: str) -> Callable[[], str]:
    """A function that reads the token from a file; who renews the token replaces the file. Raises ValueError, naming
    the setting, where it cannot be read now."""
    file = Path(path)
    try:
        file.read_text()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"{setting}: cannot read {file}: {why}") from None
    return lambda: file.read_text().strip()
