"""TLS and the token of a client, from variables of its environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from handfast.client.security.given import CA, CERTIFICATE, KEY, TOKEN_FILE
from handfast.client.security.secret_files import UnusableFile, read_secret
from handfast.client.security.tls import TLS

SERVER_NAME = "HANDFAST_SERVER_NAME"


class EnvironmentTLS(TLS):
    def setting(self, field: str) -> str:
        return f"HANDFAST_{field.upper()}"


def tls() -> TLS | None:
    """None where no variable names a file. Raises ValueError."""
    ca, certificate, key = (os.environ.get(name) or None for name in (CA, CERTIFICATE, KEY))
    if not ca and not certificate and not key:
        return None
    return EnvironmentTLS(ca, certificate, key, os.environ.get(SERVER_NAME) or None)


def token() -> Callable[[], str] | None:
    """A function that reads the token from a file, which who renews the token replaces; None where no variable names
    one. Raises ValueError where it cannot be read now, or others can."""
    path = os.environ.get(TOKEN_FILE)
    if not path:
        return None
    read = partial(_token_in, Path(path))
    read()
    return read


def _token_in(file: Path) -> str:
    try:
        return read_secret(file, TOKEN_FILE).decode().strip()
    except UnicodeDecodeError:
        raise UnusableFile(f"{TOKEN_FILE}: cannot read {file}: it is no text") from None
