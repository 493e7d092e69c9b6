"""What happens to replicas. Each fault returns who it happened to, and what ends it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from tests.replicas.servers import NAMES, Replicas, Server

Fault = Callable[[Replicas, random.Random], tuple[list[Server], Callable[[], None]]]


def restart_all(replicas: Replicas, chance: random.Random) -> tuple[list[Server], Callable[[], None]]:
    """As a rollout does: the next one when the one before is ready. It is over when it returns."""
    for each in replicas.servers:
        each.stop()
        each.start()
        each.wait_until_ready()
    return replicas.servers, lambda: None


def kill(replicas: Replicas, chance: random.Random) -> tuple[list[Server], Callable[[], None]]:
    victim = chance.choice(replicas.servers)
    victim.kill()
    return [victim], victim.start


def pause(replicas: Replicas, chance: random.Random) -> tuple[list[Server], Callable[[], None]]:
    victim = chance.choice(replicas.servers)
    victim.pause()
    return [victim], victim.resume


def cut_off(replicas: Replicas, chance: random.Random) -> tuple[list[Server], Callable[[], None]]:
    """From callers, from the servers that call it, and from its database."""
    name = chance.choice(NAMES)
    cable = replicas.cables[name]
    cable.pull()
    return [replicas.of[name][-1]], cable.plug_in


ROLLING = "rolling restart"
FAULTS: Mapping[str, Fault] = {ROLLING: restart_all, "killed": kill, "paused": pause, "cut off": cut_off}
LASTS: Mapping[str, float] = {ROLLING: 0.0, "killed": 2.0, "paused": 20.0, "cut off": 20.0}
"""Seconds for which each lasts."""
