"""Asks a node something while its cable is in, out, and in again: python -m tests.failover.pulled FOLDER"""

from __future__ import annotations

import contextlib
import signal
import sys
import urllib.request
from pathlib import Path

from tests.eventually import eventually
from tests.failover.node import Node, make_network


def answers(node: Node) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{node.address}:8000/", timeout=0.2):
        return True
    return False


def main(folder: Path) -> None:
    make_network()
    node = Node("node1")
    node.start([sys.executable, "-m", "http.server", "--directory", folder], folder / "log")
    assert eventually(lambda: answers(node))
    node.pull_out()
    assert not answers(node)
    node.plug_in()
    assert eventually(lambda: answers(node))
    node.signal(signal.SIGSTOP)
    assert not answers(node)
    node.signal(signal.SIGCONT)
    assert eventually(lambda: answers(node))
    assert len(node.processes()) == 1
    node.signal(signal.SIGKILL)
    assert eventually(lambda: not node.processes())
    node.start(["tail", "-f", folder / "log"], folder / "log")  # and leaves it so


if __name__ == "__main__":
    main(Path(sys.argv[1]))
