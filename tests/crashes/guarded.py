"""A team's own server beside a suite that is killed. It is started again whenever it has died."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from handfast.server.process.supervision import SUPERVISED
from tests.cli.processes import CLEAN

ROOT = Path(__file__).parents[2]


class Guarded(threading.Thread):
    """`python -m MODULE`, where the modules of the example are found. What it logs goes to `errors`. A change of its
    `environment` holds from its next start on.
    """

    def __init__(self, module: str, environment: Mapping[str, str], errors: Path) -> None:
        super().__init__(name=module, daemon=True)
        self._arguments = [sys.executable, "-m", module]
        self.environment = {**CLEAN, "PYTHONPATH": str(ROOT / "examples" / "credits"), SUPERVISED: "1", **environment}
        self._errors = errors
        self._lock, self._stopping = threading.Lock(), False
        self.kills = 0

    def start(self) -> None:
        self._spawn()
        super().start()

    def _spawn(self) -> None:
        with self._errors.open("a") as stderr:
            self._popen = subprocess.Popen(
                self._arguments,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.PIPE,  # its end stops the server, even where this process dies
                stdout=stderr,
                stderr=stderr,
            )

    def run(self) -> None:
        while True:
            status = self._popen.wait()
            with self._lock:
                self.kills += status == -signal.SIGKILL
                if self._stopping:
                    return
                self._spawn()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._popen.pid, signal.SIGKILL)

    def stop(self) -> None:
        if not self.is_alive():
            return
        with self._lock:
            self._stopping = True
        self._popen.terminate()
        self.join()
