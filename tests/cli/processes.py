"""Real processes: the `handfast` command as a user runs it, with no settings but those that a test gives."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from handfast.client import Suite, connect
from handfast.server.cli.ports import free_first_port
from handfast.server.cli.supervisor import HANDFAST
from tests.eventually import PATIENCE

SETTINGS = ("HANDFAST_", "NOTIFY_SOCKET", "OTEL_")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}


@dataclass(frozen=True)
class Result:
    status: int
    stdout: str
    stderr: str

    @property
    def told(self) -> list[str]:
        """The lines of stderr that are not of the log."""
        return [line for line in self.stderr.splitlines() if not line.startswith("{")]


@dataclass(frozen=True)
class Process:
    """One `handfast` process that runs, with all that it and its children write to stderr in a file. Where `suite_up`
    started it, `printed` is what it wrote to stdout until it was ready."""

    popen: subprocess.Popen[str]
    errors: Path
    first_port: int = 0
    printed: str = ""

    @property
    def stderr(self) -> str:
        return self.errors.read_text()

    @property
    def addresses(self) -> dict[str, str]:
        return {name: f"127.0.0.1:{self.first_port + n}" for n, name in enumerate(("users", "preferences", "accounts"))}

    def connect(self) -> Suite:
        return connect(self.addresses["users"], self.addresses["preferences"], self.addresses["accounts"])

    def read_until(self, line: str) -> str:
        """What it prints on stdout up to and with that line, or all where that line never comes."""
        assert self.popen.stdout is not None
        lines = []
        for printed in self.popen.stdout:
            lines.append(printed)
            if printed.rstrip("\n") == line:
                break
        return "".join(lines)

    def servers(self) -> dict[str, int]:
        """The supervisor's children: process ids by name of the server, which one that has just ended has no more."""
        pid = self.popen.pid
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        arguments = {child: Path(f"/proc/{child}/cmdline").read_text().rstrip("\0") for child in children}
        return {last.rpartition("\0")[2] or f"process {child}": child for child, last in arguments.items()}

    def end(self, number: signal.Signals) -> int:
        """Sends the signal; the exit status."""
        self.popen.send_signal(number)
        return self.popen.wait(PATIENCE)


def run_process(arguments: tuple[str, ...], environment: Mapping[str, str]) -> Result:
    """Runs a command to its end."""
    done = subprocess.run(
        [*HANDFAST, *arguments],
        env={**CLEAN, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def start_process(errors: Path, arguments: tuple[str, ...], environment: Mapping[str, str], first_port: int) -> Process:
    """Starts a command and leaves it running."""
    with errors.open("w") as stderr:
        popen = subprocess.Popen(
            [*HANDFAST, *arguments],
            env={**CLEAN, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="surrogateescape",
        )
    return Process(popen, errors, first_port)


def stop_process(process: Process) -> None:
    with process.popen as popen:  # closes its stdout
        popen.terminate()
        try:
            popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            popen.kill()


@contextlib.contextmanager
def suite_up(folder: Path, environment: Mapping[str, str], *flags: str) -> Iterator[Process]:
    """A suite on free ports that is ready, with its data and what it writes to stderr in `folder`."""
    first_port = free_first_port()
    arguments = ("up", "--data-dir", str(folder / "data"), "--first-port", str(first_port), *flags)
    process = start_process(folder / "stderr", arguments, environment, first_port)
    try:
        printed = process.read_until("ready")
        assert printed.endswith("\nready\n"), process.stderr
        yield replace(process, printed=printed)
    finally:
        stop_process(process)


def is_running(pid: int) -> bool:
    """Whether any thread of it is left: before that its ports and files are not free."""
    try:
        dead = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return not dead or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False
