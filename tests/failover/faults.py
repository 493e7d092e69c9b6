"""What happens to the node of the primary. Each fault returns what ends it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping

from tests.failover.cluster import Cluster

BEHIND = 1.0
"""Seconds for which standbys are out of reach before a primary loses its power."""

Fault = Callable[[Cluster, str], Callable[[], None]]


def kill_node(cluster: Cluster, primary: str) -> Callable[[], None]:
    cluster.nodes[primary].signal(signal.SIGKILL)
    return lambda: cluster.start(primary)


def kill_postmaster(cluster: Cluster, primary: str) -> Callable[[], None]:
    cluster.kill_postmaster(primary)
    return lambda: None


def pause_postgresql(cluster: Cluster, primary: str) -> Callable[[], None]:
    return _pause(cluster, primary, "postgres")


def pause_patroni_and_postgresql(cluster: Cluster, primary: str) -> Callable[[], None]:
    return _pause(cluster, primary, "patroni", "postgres")


def _pause(cluster: Cluster, primary: str, *programs: str) -> Callable[[], None]:
    node = cluster.nodes[primary]
    node.signal(signal.SIGSTOP, *programs)
    return lambda: node.signal(signal.SIGCONT, *programs)


def cut_off(cluster: Cluster, primary: str) -> Callable[[], None]:
    node = cluster.nodes[primary]
    node.pull_out()
    return node.plug_in


def lose_power_behind_standbys(cluster: Cluster, primary: str) -> Callable[[], None]:
    """When its standbys have not heard of it for a while. What it has acknowledged meanwhile is nowhere else."""
    node = cluster.nodes[primary]
    for standby in cluster.standbys(primary):
        standby.pull_out()
    time.sleep(BEHIND)
    node.pull_out()
    node.signal(signal.SIGKILL)
    for standby in cluster.standbys(primary):
        standby.plug_in()

    def end() -> None:
        node.plug_in()
        cluster.start(primary)

    return end


FAULTS: Mapping[str, Fault] = {
    "node killed": kill_node,
    "postmaster killed": kill_postmaster,
    "PostgreSQL paused": pause_postgresql,
    "Patroni and PostgreSQL paused": pause_patroni_and_postgresql,
    "cut off": cut_off,
    "power lost behind standbys": lose_power_behind_standbys,
}
LOSING = "power lost behind standbys"
"""What loses writes for certain where no standby has to have them."""


def in_turns(chance: random.Random) -> Iterator[str]:
    """All of them, again and again, each time in another order."""
    while True:
        yield from chance.sample(list(FAULTS), len(FAULTS))
