"""A copy of the working tree, and the tests that run in it.

Needs Linux, which is what gives this process the orphans of the tests, so that nothing that they start outlives them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import venv
from pathlib import Path

from tools.mutation.faults import Fault

ROOT = Path(__file__).parents[2]
LONGEST_TEST_SECONDS = 90  # far longer than any takes, so that one that hangs is cut
PR_SET_CHILD_SUBREAPER = 36


class Copy:
    """A copy of the working tree, with a Python that imports from it: what git knows, and what is new.

    The Python is a virtual environment, since no variable of the environment reaches each process that tests start.
    It keeps no compiled modules, which are told from stale ones by the second in which a file was written.
    """

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\0"):
            if name and (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.tree / name)
        venv.create(folder / "venv", symlinks=True)
        self.python = folder / "venv/bin/python"
        (site_packages,) = (folder / "venv/lib").glob("python*/site-packages")
        libraries = ROOT / ".venv" / site_packages.relative_to(folder / "venv")
        paths = [
            *(str(self.tree / root) for root in ("generated", "clients", "servers", "examples/demo")),
            str(libraries),
        ]
        lines = ["import sys; sys.dont_write_bytecode = True", *paths, ""]
        (site_packages / "copy.pth").write_text("\n".join(lines))

    def test(self, fault: Fault, tests: tuple[str, ...], seconds: float) -> str | None:
        """What the tests print where they notice a fault; None where they pass."""
        (self.tree / fault.module).write_text(fault.changed)
        try:
            return self.test_unchanged(tests, seconds)
        finally:
            (self.tree / fault.module).write_text(fault.code)

    def test_unchanged(self, tests: tuple[str, ...], seconds: float | None = None) -> str | None:
        """What the tests print where things are not in order; None where they pass. Cuts them after so many seconds."""
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={LONGEST_TEST_SECONDS}"]
        command = [str(self.python), "-m", "pytest", *options, *tests]
        with tempfile.TemporaryFile("w+") as output:
            # In a session of its own, where Ctrl-C does not reach it: this process ends it.
            running = subprocess.Popen(
                command, cwd=self.tree, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                status = running.wait(seconds)
            except subprocess.TimeoutExpired:
                return f"the tests did not end within {seconds:.0f} seconds"
            finally:
                running.kill()
                running.wait()
                _end_orphans()
            output.seek(0)
            return output.read() if status else None


def adopt_orphans() -> None:
    """Makes this process the parent of what its children leave behind. Its own threads must not start processes."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _end_orphans() -> None:
    """Ends what the tests left behind. Where one ends, this process gets its children, until there are none."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while pids := [int(pid) for pid in children.read_text().split()]:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
