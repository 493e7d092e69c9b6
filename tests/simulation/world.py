"""One seed: a world of servers, clients and faults, from its start until everything has settled.

What stands still in it: the clock of the machine, its random numbers, its threads. The servers' modules get those of
the world instead (`PATCHES`). Each call has a task of its own, so pools of threads are not simulated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import greenlet
from sqlalchemy.exc import DBAPIError

from handfast.client import propagation, suite
from handfast.client.errors import ServiceError
from handfast.client.transactions import call as client_call
from handfast.client.transactions import calls, ending, journal, minted, reruns, transaction
from handfast.server.chassis import call, ids
from handfast.server.chassis.data import database
from handfast.server.chassis.errors import DomainError
from handfast.server.transactions import lost
from handfast.server.transactions.coordinator import coordinator, decision_store, notifier, owned_ids
from handfast.server.transactions.participant import circuit, finishing, resolver, sweeper, waiters
from handfast.server.transactions.participant import participant as participant_module
from handfast.server.transactions.participant.errors import CommittedChangeLost
from tests.simulation.clients import Client
from tests.simulation.engine import Changes, Engine
from tests.simulation.network import Network
from tests.simulation.oracle import KINDS, Oracle
from tests.simulation.profiles import FAULTS, PROFILES, Profile, profile_of
from tests.simulation.scheduler import SECOND, Endless, Process, Scheduler, Task
from tests.simulation.servers import CoordinatorServer, ParticipantServer, Server
from tests.simulation.transcript import LEGEND, Transcript, changes_of

ACCOUNT_TIMEOUT = 4 * SECOND
"""Shorter than in truth, so that account calls expire while a simulation runs."""


class Faults:
    """Which go wrong, and how often."""

    def __init__(self, rng: random.Random, profile: Profile) -> None:
        self._rng = rng
        self._transit = int(profile.transit * SECOND)
        often = {**FAULTS, **profile.faults}
        self.rates: dict[str, float] = {name: rng.choice(rates) for name, rates in often.items()}

    def stop(self) -> None:
        self.rates.clear()

    def strikes(self, name: str) -> bool:
        rate = self.rates.get(name, 0)
        return rate > 0 and self._rng.random() < rate

    def delay(self) -> int:
        """How long a message is under way, in microseconds."""
        if self.strikes("slow"):
            return int(self._rng.uniform(0, 1) ** 2 * 6 * SECOND)
        return 100 + int(self._rng.random() * self._transit)


@dataclass(frozen=True)
class Without:
    """Which rules are left out: locks of these tables, and whatever a patch does besides."""

    profile: str = ""
    """In which it shows soon."""
    locks: frozenset[str] = frozenset()
    patches: tuple[tuple[Any, str, Any], ...] = field(default=(), repr=False)


class World:
    def __init__(
        self, seed: int, profile: str = "", *, transcript: bool = False, without: Without | None = None
    ) -> None:
        global _running
        _running = self
        self.without = without or Without()
        profile = profile or self.without.profile or profile_of(seed)
        self.profile = PROFILES[profile]
        self.has_bank = "move" in self.profile.actions
        self.participants = ("users", "preferences", "bank") if self.has_bank else ("users", "preferences")
        self.rng = rng = random.Random(seed)
        self.failure: str | None = None
        self.scheduler = Scheduler(rng)
        self.transcript = Transcript(self.scheduler, on=transcript)
        self.faults = Faults(rng, self.profile)
        self.oracle = Oracle(self)
        self.network = Network(self)
        self._pause = int(self.profile.pause * SECOND)
        self._minted = self._requests = 0

        by_row = rng.random() < 0.5
        self.engines = {name: Engine(self, name, by_row=by_row) for name in (*self.participants, "transactions")}
        farthest = int(rng.choice(self.profile.skew) * SECOND)

        def skew() -> int:
            return rng.randint(-farthest, farthest)

        replicas = {"users": rng.choice((1, 2)), "preferences": 1, "accounts": rng.choice((2, 2, 3))}
        if self.has_bank:
            replicas["bank"] = rng.choice((1, 2))
        self.servers: dict[str, list[Server]] = {
            participant: [
                ParticipantServer(self, f"{participant}-{n}", participant, self.engines[participant], skew())
                for n in range(1, replicas[participant] + 1)
            ]
            for participant in self.participants
        }
        self.servers["accounts"] = [
            CoordinatorServer(self, f"accounts-{n}", self.engines["transactions"], skew())
            for n in range(1, replicas["accounts"] + 1)
        ]
        self.all_servers = [server for servers in self.servers.values() for server in servers]
        self.clients = [Client(self, f"client-{n}") for n in range(1, rng.choice(self.profile.clients) + 1)]
        self.transcript.title(
            (
                f"Seed {seed}, {profile}; databases like {'PostgreSQL' if by_row else 'SQLite'}.",
                "Faults: "
                + (", ".join(f"{name} {rate:.1%}" for name, rate in self.faults.rates.items() if rate) or "none"),
                "Clocks: " + ", ".join(f"{each.name} {each.skew / SECOND:+.1f} s" for each in self.all_servers),
                *LEGEND,
            )
        )

    # The way of a seed

    def run(self) -> str | None:
        """Returns what was violated, if anything."""
        phases = (self._start, self._live, self._settle, self._check_free, self._prune, self._go_on, self._read_all)
        for phase in phases:
            try:
                phase()
            except Endless:
                self.fail("it never comes to rest")
            if self.failure is not None:
                break
        self.scheduler.forget()
        for server in self.all_servers:
            self.scheduler.crash(server.process)
        for client in self.clients:
            self.scheduler.crash(client.process)
        return self.failure

    def _start(self) -> None:
        """What is there at first, made without faults."""
        rates, self.faults.rates = self.faults.rates, {}
        self._do([self.clients[0].create_accounts])
        self.faults.rates = rates

    def _live(self) -> None:
        for server in self.all_servers:
            server.in_background()
        tasks = [self.scheduler.spawn(client.process, client.act) for client in self.clients]
        self.scheduler.run(until=lambda: all(task.dead for task in tasks))

    def _settle(self) -> None:
        """The faults stop, clocks are set right, everything starts once more, and all that is on its way arrives."""
        self.log("", "all faults stop")
        self.faults.stop()
        for server in self.all_servers:
            self.scheduler.crash(server.process)
            server.skew = 0
            server.start()
        self.scheduler.run()
        for _ in range(3):
            self.scheduler.now += 40 * SECOND
            acts = [(server, act) for server in self.all_servers for _, act in server.background()]
            self._do([partial(server.attempt, act) for server, act in acts])
            self._do([self.clients[0]._accept_losses])

    def _check_free(self) -> None:
        for name in self.participants:
            tables = self.engines[name].tables
            for table in (*(each.kind for each in KINDS[name]), "claims"):
                for key, row in tables[table].items():
                    if row["pending_transaction_id"] is not None:
                        self.fail(
                            f"{table}/{key} is not free in the end: {row['pending_transaction_id']} has a change of it"
                        )
                    if row.get("read_locks"):
                        self.fail(f"{table}/{key} is not free in the end: it has {row['read_locks']} read locks")
                    if not row.get("present", True):
                        self.fail(f"{table}/{key}: a placeholder is left")
            if tables["operations"] or tables["claim_changes"]:
                self.fail(f"{name}: operations are left")
            unfinished = [key for key, branch in tables["branches"].items() if branch["state"] != "FINISHED"]
            if unfinished:
                self.fail(f"{name}: branches are not finished in the end: {unfinished}")
        for id_, decision in self.engines["transactions"].tables["decisions"].items():
            if decision["finish_time"] is None:
                self.fail(f"{id_} is not finished everywhere in the end")
        self.oracle.check_claims()

    def _prune(self) -> None:
        self.scheduler.now += 100 * SECOND
        self._do([partial(server.prune, server.clock()) for server in self.all_servers])
        for name, table in (*((each, "branches") for each in self.participants), ("transactions", "decisions")):
            if self.engines[name].tables[table]:
                self.fail(f"{name}: pruning leaves {table}")

    def _go_on(self) -> None:
        self._do([self.clients[0].create_another_account])

    def _read_all(self) -> None:
        self._do([self.clients[0].read_everything])

    def _do(self, acts: list[Callable[[], None]]) -> None:
        process = Process("the end")
        for act in acts:
            self.scheduler.spawn(process, act)
        self.scheduler.run()

    # What the parts of the world call

    def pause(self, where: str) -> None:
        """Others may go on here, and the process may crash."""
        task = greenlet.getcurrent()
        if not isinstance(task, Task):
            return
        if self.faults.strikes("crash"):
            self._crash(task.process, where)
        if self.rng.random() < 0.7:
            self.scheduler.sleep(int(self.rng.random() * self._pause))

    def pause_between_statements(self) -> None:
        if self.rng.random() < 0.25:
            self.pause("between two statements")

    def _crash(self, process: Process, where: str) -> None:
        server = next((each for each in self.all_servers if each.process is process), None)
        if server is None:
            return

        def crash() -> None:
            self.log(server.name, f"CRASHES {where}")
            self.scheduler.crash(process)
            for future in server.callers:
                self.network.cut(future)
            self.scheduler.after(int(self.rng.uniform(0.001, 2) * SECOND), restart)

        def restart() -> None:
            if not server.process.alive:
                self.log(server.name, "starts again")
                server.start()
                server.in_background()

        if process.alive:
            self.scheduler.after(0, crash)
            self.scheduler.park()

    def process_name(self) -> str:
        return self.scheduler.current().process.name

    def committing(self, engine: Engine, changes: Changes) -> None:
        if self.transcript.on:
            for (table, key), columns in changes.items():
                keys = key if isinstance(key, tuple) else (key,)
                before, after = engine.tables[table].get(key), self.oracle.legible(engine, table, columns)
                what = f"{engine.name}.{table} {' '.join(map(str, keys))}"
                self.log(self.process_name(), f"commits {what}: {changes_of(keys, before, after)}")

    def committed(self, engine: Engine, changes: Changes) -> None:
        self.oracle.changed(engine, changes, self.scheduler.current().request)

    def background_failed(self, who: str, error: Exception) -> None:
        expected = isinstance(error, DomainError | ServiceError | DBAPIError)
        if isinstance(error, CommittedChangeLost):
            self.found_lost(error.values["transaction_id"], f"{who}, in the background: {error!r}")
        elif not expected:
            self.fail(f"{who}, in the background: {error!r}")

    def found_lost(self, transaction_id: str, what: str) -> None:
        """Which only a commit can be that named more than was staged."""
        if transaction_id not in self.oracle.overcounted:
            self.fail(what)

    def mint(self) -> str:
        """A UUIDv7 by the clock of the process that asks."""
        milliseconds = (self.scheduler.now + self.scheduler.current().process.skew) // 1000
        self._minted += 1
        minted = f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7000-8000-{self._minted:012x}"
        self.transcript.name(minted, f"T{self._minted}")
        return minted

    def name_request(self, request_id: str) -> None:
        self._requests += 1
        self.transcript.name(request_id, f"R{self._requests}")

    def fail(self, text: str) -> None:
        if self.failure is None:
            self.failure = self.transcript.brief(text)
            self.log("", f"VIOLATION: {text}")
            self.transcript.on = False
        self.scheduler.stopped = True

    def log(self, who: str, text: str) -> None:
        self.transcript.log(who, text)


_running: World


class VirtualTime:
    """Stands for the module `time`."""

    @staticmethod
    def monotonic() -> float:
        return _running.scheduler.now / SECOND

    @staticmethod
    def sleep(seconds: float) -> None:
        _running.log(_running.process_name(), f"waits {1000 * seconds:.1f} ms before it tries again")
        _running.scheduler.sleep(int(seconds * SECOND))


class VirtualEvent:
    """Stands for `threading.Event`."""

    def __init__(self) -> None:
        self._is_set = False
        self._waking: list[Callable[[], None]] = []

    def set(self) -> None:
        self._is_set = True
        for wake in self._waking:
            _running.scheduler.after(0, wake)

    def wait(self, seconds: float) -> None:
        if not self._is_set:
            wake = _running.scheduler.waker()
            self._waking.append(wake)
            _running.scheduler.after(int(seconds * SECOND), wake)
            _running.scheduler.park()


class SeededRandom:
    """Stands for the module `random`, and for a `Random`."""

    @staticmethod
    def uniform(low: float, high: float) -> float:
        return _running.rng.uniform(low, high)

    @staticmethod
    def getrandbits(count: int) -> int:
        return _running.rng.getrandbits(count)


class Log:
    """Stands for loggers. What calls for an operator is a violation here."""

    def warning(self, event: str, **values: object) -> None:
        _running.log("", f"warning: {event} {values.get('error', '')}")

    def error(self, event: str, **values: object) -> None:
        if "lost" in event:
            _running.found_lost(str(values.get("transaction_id")), f"{event}: {values}")

    exception = error


def _wait_for_another(finished: VirtualEvent, seconds: float) -> None:
    """As a write does that meets a younger transaction."""
    _running.log(_running.process_name(), "waits until another transaction is finished, or looks again")
    finished.wait(seconds)


def _mint() -> str:
    return _running.mint()


PATCHES: tuple[tuple[Any, str, Any], ...] = (
    *((module, "time", VirtualTime) for module in (call, circuit, lost, notifier, propagation)),
    *(
        (module, "time", VirtualTime)
        for module in (suite, client_call, calls, ending, journal, minted, reruns, transaction)
    ),
    (reruns, "random", SeededRandom),
    *((module, "Event", VirtualEvent) for module in (resolver, waiters)),
    *((module, "sleep", VirtualTime.sleep) for module in (database, coordinator)),
    (participant_module, "wait", _wait_for_another),
    *((module, "random", SeededRandom) for module in (database, coordinator, participant_module)),
    (ids, "_random", SeededRandom),
    (owned_ids, "new_id", _mint),
    *((module, "_log", Log()) for module in (coordinator, decision_store, finishing, notifier, sweeper)),
    (coordinator, "TIMEOUT_US", ACCOUNT_TIMEOUT),
)


@contextmanager
def patched(more: tuple[tuple[Any, str, Any], ...] = ()) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in (*PATCHES, *more)]
    for owner, name, value in (*PATCHES, *more):
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def run_seed(seed: int, profile: str = "", *, without: Without | None = None) -> str | None:
    """What the seed violates, if anything."""
    with patched(without.patches if without else ()):
        return World(seed, profile, without=without).run()


def transcript_of(seed: int, profile: str = "", *, without: Without | None = None) -> list[str]:
    """The same once more, step by step, a line each."""
    with patched(without.patches if without else ()):
        world = World(seed, profile, transcript=True, without=without)
        world.run()
    return world.transcript.lines
