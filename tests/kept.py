"""The folder in which a command of `make` leaves what it has made, such as logs and a history, or does not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_of_run(keep: Path | None, command: str) -> Iterator[Path]:
    """`keep`, which is made and must be empty if it is there already; without it, one that goes with the block."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix=f"handfast-{command}-") as folder:
            yield Path(folder)
        return
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise SystemExit(f"{keep} is not empty")
    yield keep.absolute()
