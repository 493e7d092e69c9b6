"""Builds the image and runs containers of it, by buildah and podman, which need no daemon and no registry."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.project.commands import ROOT

BASE = ROOT / ".tools" / "image-base.tar"
"""What `make image-test` makes before it."""
TOOLS = ("buildah", "podman", "runc")
CERTIFICATES = Path("/etc/ssl/certs")
"""Of this machine, for pip: a network may have a CA of its own."""


def why_not() -> str:
    """Why no image can be built here; empty where one can."""
    lacking = [each for each in TOOLS if shutil.which(each) is None]
    if os.geteuid() != 0:
        lacking.append("root")
    if not BASE.exists():
        lacking.append("the base of `make image-test`")
    return f"needs {', '.join(lacking)}" if lacking else ""


class Engine:
    """Images and containers of its own, in two folders, of which podman wants the second to have a short name. All that
    runs takes the network of this machine, or none."""

    def __init__(self, storage: Path, state: str) -> None:
        # That of whole copies takes no file system that some machines lack, or lack in a container.
        self._storage = ("--root", str(storage), "--runroot", state, "--storage-driver", "vfs")

    def build(self) -> None:
        """Makes the images `base` and, as `make image` does, `handfast`."""
        container = self._buildah("from", "scratch").strip()
        self._buildah("add", container, str(BASE), "/")
        self._buildah("commit", container, "base")
        self._buildah("rm", container)
        # In storage that copies whole layers, one is enough.
        arguments = f"--build-arg BASE=localhost/base --volume {CERTIFICATES}:{CERTIFICATES}:ro --layers=false"
        make = ["make", "--silent", "--dry-run", "image", f"ARGS={arguments}"]
        podman, *command = shlex.split(subprocess.run(make, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout)
        assert podman == "podman"
        built = self._podman(*command)
        assert built.returncode == 0, built.stdout

    def size(self, image: str) -> int:
        """Bytes of all its layers."""
        return int(self._inspect("image", image)["Size"])

    def run(self, *command: str, options: Sequence[str] = (), entrypoint: str | None = None) -> tuple[int, str]:
        """Runs a container to its end; its exit status and what it printed."""
        given = [*options] if entrypoint is None else [*options, "--entrypoint", entrypoint]
        done = self._podman("run", "--rm", "--network", "host", *_LIMITS, *given, "localhost/handfast", *command)
        return done.returncode, done.stdout

    @contextmanager
    def running(self, name: str, *command: str, options: Sequence[str] = ()) -> Iterator[None]:
        """Runs a container in the background, and removes it at the end."""
        started = self._podman("run", "--detach", "--name", name, *_LIMITS, *options, "localhost/handfast", *command)
        assert started.returncode == 0, started.stdout
        try:
            yield
        finally:
            self._podman("rm", "--force", "--time", "0", name)

    def is_healthy(self, name: str) -> bool:
        """By the health check of the image."""
        return self._podman("healthcheck", "run", name).returncode == 0

    def stop(self, name: str) -> int:
        """Has it end; its exit status."""
        self._podman("stop", "--time", "30", name)
        return int(self._inspect("container", name)["State"]["ExitCode"])

    def logs(self, name: str) -> str:
        return self._podman("logs", name).stdout

    def _inspect(self, kind: str, name: str) -> Any:
        (found,) = json.loads(self._podman(kind, "inspect", name).stdout)
        return found

    def _buildah(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            ["buildah", *self._storage, *arguments],
            env=os.environ | {"BUILDAH_ISOLATION": "chroot"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return done.stdout

    def _podman(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Without systemd and its journal.
        host = ("--log-level", "fatal", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
        return subprocess.run(
            ["podman", *self._storage, *host, *arguments],
            cwd=ROOT,
            env=os.environ | {"BUILDAH_ISOLATION": "chroot"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


_LIMITS = (
    *("--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
    *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=1000:1000", "--log-driver", "k8s-file"),
)
"""What a container may do: less than any host would let it."""


def variables(values: Mapping[str, str]) -> list[str]:
    """The options that give a container these environment variables."""
    return [option for name, value in values.items() for option in ("--env", f"{name}={value}")]
