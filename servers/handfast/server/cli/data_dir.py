"""The folder of a suite's SQLite files, which one suite at a time may have, and from which none may vanish."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from handfast.server.process.command import Failure

LOCK = "up.lock"
MADE = "up.databases"


@contextlib.contextmanager
def kept(folder: Path, names: Collection[str]) -> Iterator[None]:
    """Makes the folder where it is absent, and keeps other suites from it. However this process ends, the system takes
    its lock away (flock(2)). The file of the lock stays, with the number of the process that had it last.

    Raises Failure where it cannot be written, or is another suite's, or one of the files `names` is gone that was noted
    as made: its server would begin with an empty one, and answer as if there never had been any data.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / LOCK).open("a+"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
        except BlockingIOError as error:
            lock.seek(0)
            raise Failure(
                f"the data directory {folder} is in use by another suite, process {lock.read().strip()}; "
                "stop that one, or give this one a --data-dir of its own"
            ) from error
        except OSError as error:
            raise Failure(f"cannot write to the data directory {folder}: {error.strerror}") from error
        made = _made(folder)
        if gone := [name for name in names if name in made and not (folder / name).exists()]:
            raise Failure(
                f"there is no {' and no '.join(gone)} in {folder} any more; "
                "restore it, with no -wal and -shm beside it but its own, "
                f"or remove {MADE} there to begin with an empty one"
            )
        yield


def note_made(folder: Path, names: Collection[str]) -> None:
    """Notes that the suite has these files, so that they must be there from now on. Those of an earlier run stay noted,
    though this one may have other databases for them.
    """
    noted = sorted(_made(folder) | set(names))
    (folder / MADE).write_text("".join(f"{name}\n" for name in noted))


def _made(folder: Path) -> set[str]:
    noted = folder / MADE
    return set(noted.read_text().splitlines()) if noted.exists() else set()
