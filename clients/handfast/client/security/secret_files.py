"""Files with a secret, which are read only where nobody but their owner can reach them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS = 0o077
_ROOT = 0
_MORE_THAN_READ_BY_GROUP = 0o037


class UnusableFile(ValueError):
    """Names the setting, the file and the rule, and has nothing of what is in the file."""


def read_secret(path: Path, setting: str) -> bytes:
    """The content of a file that only this user can read. Raises UnusableFile.

    A file of root may be readable by its group as well, as one that Kubernetes mounts. Servers have the same rule, and
    so have clients of PostgreSQL (https://www.postgresql.org/docs/current/libpq-ssl.html). Windows has no such modes.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())  # of what was opened, whatever the name stands for by now
            content = file.read()
    except OSError as error:
        raise UnusableFile(f"{setting}: cannot read {path}: {error.strerror}") from None
    if os.name == "posix":
        forbidden = _MORE_THAN_READ_BY_GROUP if found.st_uid == _ROOT != os.geteuid() else _OTHERS
        if found.st_mode & forbidden:
            mode = f"{stat.S_IMODE(found.st_mode):04o}"
            raise UnusableFile(
                f"{setting}: {path} can be reached by others than its owner (mode {mode}); say chmod 600 {path}"
            )
    return content
