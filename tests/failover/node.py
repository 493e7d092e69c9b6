"""A node: a network of its own on a cable that can be pulled, and the processes in it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.eventually import eventually
from tests.failover.configuration import HERE, NODES

BRIDGE = "nodes"
USER = "65534"
"""Whom the processes of a node run as, in their own eyes, as PostgreSQL refuses root: everywhere this is nobody."""


def make_network() -> None:
    """What all cables lead to."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("address", "add", f"{HERE}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


class Node:
    def __init__(self, name: str) -> None:
        self.name, self.address = name, NODES[name]
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._into = ("nsenter", "--net", "--target", str(self._holder.pid))
        own = _network("self")
        assert eventually(lambda: _network(self._holder.pid) != own)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(self._holder.pid))
        _ip("link", "set", name, "master", BRIDGE)
        self.plug_in()
        for command in ("link set lo up", f"address add {self.address}/24 dev eth0", "link set eth0 up"):
            _ip(*command.split(), into=self._into)

    def start(self, command: Sequence[str | Path], log: Path) -> None:
        as_user = ("unshare", "--user", f"--map-user={USER}", f"--map-group={USER}")
        with log.open("a") as output:
            subprocess.Popen([*self._into, *as_user, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def pull_out(self) -> None:
        """What is sent from here on, in either direction, is lost, and nobody is told."""
        _ip("link", "set", self.name, "down")

    def plug_in(self) -> None:
        _ip("link", "set", self.name, "up")

    def processes(self, *names: str) -> list[int]:
        """Of these programs, or all; the oldest first."""
        return [pid for pid in self._all() if not names or _name(pid) in names]

    def signal(self, number: signal.Signals, *names: str) -> None:
        """To all processes of these programs, or to all, and to those that they start meanwhile."""
        done = set[int]()
        while left := [pid for pid in self.processes(*names) if pid not in done]:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            done.update(left)

    def stop(self) -> None:
        self.signal(signal.SIGKILL)
        self._holder.kill()
        self._holder.wait()

    def _all(self) -> Iterator[int]:
        here = _network(self._holder.pid)
        for pid in sorted(int(each) for each in os.listdir("/proc") if each.isdigit()):
            if pid != self._holder.pid and _network(pid) == here:
                yield pid


def _network(pid: int | str) -> str:
    """Which one a process is in; none where it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _ip(*arguments: str, into: Sequence[str] = ()) -> None:
    subprocess.run([*into, "ip", *arguments], check=True)
