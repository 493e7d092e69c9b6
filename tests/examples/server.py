"""The example's server, started as examples/README.md says, on free ports."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.processes import CLEAN
from tests.eventually import PATIENCE, eventually
from tests.project.commands import ROOT
from tests.project.readme import Block, blocks

GUIDE = ROOT / "examples" / "README.md"
POSTAGE = ROOT / "examples" / "postage"


@dataclass(frozen=True)
class Postage:
    """A server that serves, and what it logs."""

    process: subprocess.Popen[bytes]
    log: Path

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What it has logged of this event. A line on its way is left out."""
        complete = self.log.read_text().rpartition("\n")[0].splitlines()
        return [line for line in map(json.loads, complete) if line["event"] == event]

    @property
    def address(self) -> str:
        return str(self.lines("serving")[0]["address"])

    @property
    def metrics(self) -> str:
        return str(self.lines("serving")[0]["metrics"])

    def stop(self) -> int:
        """Sends SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def started(log: Path) -> Iterator[Postage]:
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            shown("service.py").code.splitlines()[-1].split(),
            cwd=ROOT,
            env={**CLEAN, "HANDFAST_POSTAGE_LISTEN": "127.0.0.1:0"},
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
    postage = Postage(process, log)
    try:
        assert eventually(lambda: bool(postage.lines("serving")) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield postage
    finally:
        process.kill()
        process.wait()


def shown(what: str) -> Block:
    """The one block of commands in the guide that mentions `what`."""
    (block,) = (block for block in blocks("sh", GUIDE) if what in block.code)
    return block
