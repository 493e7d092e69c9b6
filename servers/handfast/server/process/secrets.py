"""Files that hold a secret: read only where nobody else can, and what a process makes is its user's alone."""

from __future__ import annotations

import os
import re
import stat

LARGEST = 1 << 20
"""Bytes of a file with a key, certificates or another secret."""
OTHERS = 0o077
"""What group and others may do: the umask of processes that keep data."""
_ROOT = 0
_MORE_THAN_READ_BY_GROUP = 0o037
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def read_secret(path: str) -> bytes:
    """The content of a file that only this user can read.

    A file of root may be readable by its group as well, as one that Kubernetes mounts; PostgreSQL has the same rule for
    its key (https://www.postgresql.org/docs/current/ssl-tcp.html). Raises ValueError, worded to follow the setting's
    name.
    """
    content, exposed = read_and_exposure(path)
    if exposed:
        raise ValueError(f"names {path}, which {exposed}")
    return content


def read_public(path: str) -> bytes:
    """The content of a file that anybody may read. Raises ValueError, worded to follow the setting's name."""
    return read_and_exposure(path)[0]


def read_secret_line(path: str) -> str:
    """`read_secret` of a file with one line, without the end of that line."""
    try:
        text = read_secret(path).decode()
    except UnicodeDecodeError:
        raise ValueError(f"names {path}, which is not text in UTF-8") from None
    try:
        return one_line(text)
    except ValueError as error:
        raise ValueError(f"names {path}, which {error}") from None


def one_line(text: str) -> str:
    """The text without the end of its line. Raises ValueError, worded to follow the setting's name."""
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or "\n" in text:
        raise ValueError("must hold one line")
    return text


def read_token(path: str) -> str:
    """`read_secret_line` of a file with a token (https://www.rfc-editor.org/rfc/rfc6750#section-2.1)."""
    token = read_secret_line(path)
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"names {path}, which must hold a token and nothing else, such as `Bearer` before it")
    return token


def read_and_exposure(path: str) -> tuple[bytes, str]:
    """The content of a file, and what keeps it from holding a secret, worded to follow `which`; nothing where it may.
    Raises ValueError, worded to follow the setting's name.
    """
    try:
        with open(path, "rb") as file:
            found = os.stat(file.fileno())  # of what was opened, whatever the name stands for by now
            check_writers(found)
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"names {path}, which cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(content) > LARGEST:
        raise ValueError(f"names {path}, which is larger than {LARGEST} bytes")
    forbidden = _MORE_THAN_READ_BY_GROUP if found.st_uid == _ROOT != os.geteuid() else OTHERS
    if not found.st_mode & forbidden:
        return content, ""
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    return content, f"others than its owner can reach (mode {mode}); say chmod 600 {path}"


def check_writers(found: os.stat_result) -> None:
    """Raises ValueError, worded to follow the name of the file, where everybody can write it: it could say anything."""
    if stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IWOTH:
        raise ValueError(f"everybody can write it (mode {stat.S_IMODE(found.st_mode):04o}); say chmod o-w")
