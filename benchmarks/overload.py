"""What is left of a server when far more is asked of it than it can do.

    at its best     as many callers as keep it busy, each with one call at a time
    crowded         ten times as many; who is refused comes again when told to
    flooded         calls sent at ten times the rate, as far as connections take them, whatever becomes of earlier ones

Prints calls a second and the time of those that were completed, in milliseconds, and both as ratios to the best; and
how many health checks were answered meanwhile, each within a second. The callers speak HTTP/2 by hand, to leave the
machine to the servers, as callers on other machines would.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from benchmarks.wire import Ended, Wire
from handfast.accounts.v1.accounts_pb2 import UpdateUserAndPreferencesRequest
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from tests.accounts.accounts import create_account
from tests.cli.processes import Process, suite_up

CALLERS = 32
CONNECTIONS = 16
ACCOUNTS = 500
SETTLING = 1.0
"""Seconds of a load before what comes back is counted."""
PROBE_EVERY = 0.1
TICK = 0.005
"""Seconds between bursts of a flood."""

NO_ROOM = Ended("", 0.0, retry_after=TICK)
"""All connections have as many calls as they take."""

LEGEND = f"""at its best: {CALLERS} callers. crowded: more of them, who come again when they are told. flooded: calls
that wait for nothing but room on a connection.
"""


@dataclass(frozen=True)
class Target:
    server: str
    path: str
    request: Callable[[str], Message]


TARGETS = {
    "GetUser": Target(
        "users", "/handfast.users.v1.UserService/GetUser", lambda user_id: GetUserRequest(user_id=user_id)
    ),
    "UpdateUser": Target(
        "users",
        "/handfast.users.v1.UserService/UpdateUser",
        lambda user_id: UpdateUserRequest(user=_renamed(user_id), request_id=str(uuid.uuid4())),
    ),
    "UpdateUserAndPreferences": Target(
        "accounts",
        "/handfast.accounts.v1.AccountService/UpdateUserAndPreferences",
        lambda user_id: UpdateUserAndPreferencesRequest(user=_renamed(user_id), request_id=str(uuid.uuid4())),
    ),
}


def _renamed(user_id: str) -> User:
    return User(user_id=user_id, display_name=uuid.uuid4().hex)


@dataclass
class Came:
    """What came back within a time: how many of each status code, and how long those took that were completed. `sent`
    counts the calls that were begun then, and `cost` is the share of one processor that the callers took. `healthy` has
    the health checks that were answered, and all of them, from the beginning of the load on.
    """

    seconds: float
    codes: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    sent: int = 0
    healthy: tuple[int, int] = (0, 0)
    cost: float = 0.0

    def count(self, ended: Ended) -> None:
        self.codes[ended.code] += 1
        if ended.code == "OK":
            self.times.append(ended.seconds * 1000)

    @property
    def completed(self) -> float:
        return self.codes["OK"] / self.seconds

    def within(self, hundredth: int) -> float:
        return statistics.quantiles(self.times, n=100)[hundredth - 1] if len(self.times) > 1 else math.inf

    def __str__(self) -> str:
        others = "".join(f", {count / self.seconds:.0f} {code}" for code, count in self.codes.items() if code != "OK")
        return (
            f"{self.sent / self.seconds:6.0f}/s sent, {self.completed:5.0f}/s completed{others}; half in "
            f"{self.within(50):.0f} ms, 99 of 100 in {self.within(99):.0f} ms; "
            f"healthy {self.healthy[0]} of {self.healthy[1]} (callers: {self.cost:.0%} of a processor)"
        )


class Probe(threading.Thread):
    """Asks a server for its health, as who restarts sick servers does, until told to stop."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address, self._stopping = address, threading.Event()
        self._answered = self._asked = 0

    def run(self) -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))  # a connection of its own
        with grpc.insecure_channel(self._address, options) as channel:
            health: Any = HealthStub(channel)
            while not self._stopping.wait(PROBE_EVERY):
                self._asked += 1
                with suppress(grpc.RpcError):
                    answer = health.Check(HealthCheckRequest(), timeout=1.0)
                    self._answered += answer.status == HealthCheckResponse.SERVING

    def stop(self) -> tuple[int, int]:
        """How many were answered, of how many."""
        self._stopping.set()
        self.join()
        return self._answered, self._asked


class Callers:
    """So many of them, each with one call at a time; who is refused waits for as long as it is told, or nearly so."""

    def __init__(self, count: int) -> None:
        self._due = [0.0] * count

    def due(self, now: float) -> Iterator[None]:
        while self._due and self._due[0] <= now:
            heapq.heappop(self._due)
            yield

    def ended(self, now: float, ended: Ended) -> None:
        heapq.heappush(self._due, now + ended.retry_after * random.uniform(0.5, 1.5))


class Flood:
    """So many calls a second, whatever becomes of them."""

    def __init__(self, rate: float) -> None:
        self._rate, self._begun = rate, 0

    def due(self, now: float) -> Iterator[None]:
        while self._begun < self._rate * now:
            self._begun += 1
            yield

    def ended(self, now: float, ended: Ended) -> None:
        pass


def ask(load: Callers | Flood, address: str, target: Target, user_ids: list[str], seconds: float) -> Came:
    came = Came(seconds)
    with closing(Wire(address, target.path, CONNECTIONS)) as wire:
        probe = Probe(address)
        probe.start()
        began, spent = time.perf_counter(), 0.0
        while (now := time.perf_counter() - began) < SETTLING + seconds:
            counting = now >= SETTLING
            spent = spent if counting else time.process_time()
            for _ in load.due(now):
                if wire.call(target.request(random.choice(user_ids)).SerializeToString()):
                    came.sent += counting
                else:
                    load.ended(now, NO_ROOM)
            for ended in wire.ended(TICK):
                load.ended(now, ended)
                if counting:
                    came.count(ended)
        came.cost = (time.process_time() - spent) / seconds
        came.healthy = probe.stop()
    return came


def compare(process: Process, target: Target, options: argparse.Namespace) -> None:
    with process.connect() as suite:
        user_ids = [create_account(suite).user.user_id for _ in range(ACCOUNTS)]
    ratios: dict[str, list[tuple[float, float]]] = {"crowded": [], "flooded": []}
    address = process.addresses[target.server]
    for _ in range(options.rounds):
        best = ask(Callers(CALLERS), address, target, user_ids, options.seconds)
        print(f"  at its best  {best}", flush=True)
        for name, found in ratios.items():
            load = Callers(options.times * CALLERS) if name == "crowded" else Flood(options.times * best.completed)
            came = ask(load, address, target, user_ids, options.seconds)
            print(f"  {name:<11}  {came}", flush=True)
            found.append((came.completed / best.completed, came.within(99) / best.within(99)))
            time.sleep(SETTLING)
    print(f"  medians of {options.rounds}, against the best:")
    for name, found in ratios.items():
        completed, slower = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"  {name:<11}  {completed:.2f} x completed, {slower:.2f} x the time of 99 of 100", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=10, help="how much more is asked than can be done (10)")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (5)")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--methods", nargs="+", choices=TARGETS, default=list(TARGETS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, suite_up(Path(folder), {}) as process:
        print(LEGEND)
        for name in options.methods:
            print(name)
            compare(process, TARGETS[name], options)


if __name__ == "__main__":
    main()
