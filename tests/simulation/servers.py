"""The server processes: the servers' own servicers and protocol classes, put together as their `server.py` does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.struct_pb2 import Value

from handfast.client import Suite
from handfast.client.transaction_metadata import OPERATION, TRANSACTION_ID
from handfast.preferences.v1.preferences_pb2 import PREFERENCE_TYPE_STRING, PreferenceDefinition
from handfast.server.accounts.service import AccountServicer
from handfast.server.chassis.call import Method, current
from handfast.server.preferences.service import PreferencesServicer
from handfast.server.transactions.coordinator.coordinator import Coordinator
from handfast.server.transactions.coordinator.holdings import Holdings
from handfast.server.transactions.coordinator.keyed_lock import Turn
from handfast.server.transactions.coordinator.notifier import DecisionNotifier
from handfast.server.transactions.coordinator.owned_ids import OwnedIds
from handfast.server.transactions.coordinator.service import TransactionServicer
from handfast.server.transactions.core.model import Decision
from handfast.server.transactions.horizon import id_at
from handfast.server.transactions.participant import Collection as ResourceCollection
from handfast.server.transactions.participant import Participant, UnitOfWork
from handfast.server.transactions.participant.collection import Change, Reply
from handfast.server.transactions.participant.lock_service import LockServicer
from handfast.server.transactions.participant.resolver import CoordinatorResolver
from handfast.server.transactions.participant.resource_type import M, ResourceType
from handfast.server.transactions.participant.service import ParticipantServicer
from handfast.server.users.service import UserServicer
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub, TransactionServiceStub
from tests.simulation.bank import BankServicer
from tests.simulation.engine import Engine
from tests.simulation.network import SERVICES, Channel, Future
from tests.simulation.oracle import KINDS, seen
from tests.simulation.requests import KEYS
from tests.simulation.scheduler import SECOND, Process
from tests.simulation.statements import SimulatedAnswers, SimulatedRegister, SimulatedRequests, SimulatedStore

if TYPE_CHECKING:
    from tests.simulation.world import World

WAITING = 4
"""How many writes of one process may wait for other transactions."""
AHEAD = 3600 * SECOND


def suite_of(world: World, caller: Process) -> Suite:
    """The suite as a process calls it."""
    channels: Any = (Channel(world, caller, name) for name in ("users", "preferences", "accounts"))
    return Suite(*channels, open_channel=lambda name: cast(Any, Channel(world, caller, name)))


class Server:
    """A process that serves. `start` is also what a restart does: nothing is left but the database."""

    def __init__(self, world: World, name: str, engine: Engine, skew: int) -> None:
        self.world, self.engine, self.skew = world, engine, skew
        self.name = name
        self.handlers: dict[Method, Callable[[Any, Any], Any]] = {}
        self.callers: list[Future] = []
        self.process = Process(name, skew)
        self.start()

    def start(self) -> None:
        self.process = Process(self.name, self.skew)
        self.callers = []
        self.handlers = {}
        self.build()

    def clock(self) -> int:
        return self.world.scheduler.now + self.skew

    def build(self) -> None:
        raise NotImplementedError

    def serve(self, service: str, servicer: Any) -> None:
        for name, method in SERVICES[service].items():
            self.handlers[method] = getattr(servicer, name)

    def background(self) -> list[tuple[float, Callable[[], None]]]:
        """What it does on its own: how often at the most, in seconds, and what."""
        raise NotImplementedError

    def prune(self, before: int) -> None:
        """Forgets what is older, as far as the rules let it."""
        raise NotImplementedError

    def in_background(self) -> None:
        """Starts what it does on its own."""
        for seconds, act in self.background():
            self.world.scheduler.spawn(self.process, partial(self._forever, seconds, act))

    def _forever(self, seconds: float, act: Callable[[], None]) -> None:
        world = self.world
        while True:
            world.scheduler.sleep(int(world.rng.uniform(0.02, seconds) * SECOND))
            self.attempt(act)

    def attempt(self, act: Callable[[], None]) -> None:
        """As the loops of sweeper, notifier and pruner do: what fails is tried again later."""
        try:
            act()
        except Exception as error:
            self.world.background_failed(self.name, error)

    def prune_something(self) -> None:
        ahead = AHEAD if self.world.faults.strikes("clock_ahead") else 0
        self.prune(self.clock() + ahead - int(self.world.rng.uniform(0, self.world.profile.retention) * SECOND))


class ParticipantServer(Server):
    """Users, preferences or the bank."""

    def __init__(self, world: World, name: str, participant: str, engine: Engine, skew: int) -> None:
        self.participant = participant
        super().__init__(world, name, engine, skew)

    def build(self) -> None:
        coordinator: Any = Channel(self.world, self.process, "accounts")
        participant = Participant(
            SimulatedStore(self.participant, self.engine, KINDS[self.participant]),
            SimulatedRequests(self.engine, self.clock),
            CoordinatorResolver(TransactionServiceStub(coordinator), self.participant, threads=2 * WAITING),
            threads=2 * WAITING,
            clock=self.clock,
        )
        self._sweeper = participant.sweeper
        self.serve("ParticipantService", ParticipantServicer(participant))
        self.serve("LockService", LockServicer(participant))
        match self.participant:
            case "users":
                self.serve("UserService", UserServicer(self._collection(participant), self.clock))
            case "preferences":
                definitions: Any = AnyKey()
                servicer = PreferencesServicer(self._collection(participant), definitions, self.clock)
                self.serve("PreferencesService", servicer)
            case _:
                self.serve("BankService", BankServicer(participant))

    def _collection(self, participant: Participant) -> ResourceCollection[Any]:
        (resources,) = KINDS[self.participant]
        if self.world.profile.looks:
            return Looking(self.world, participant, resources)
        return participant.collection(resources)

    def background(self) -> list[tuple[float, Callable[[], None]]]:
        profile = self.world.profile
        return [(profile.sweeping, self._sweeper.sweep), (profile.pruning, self.prune_something)]

    def prune(self, before: int) -> None:
        self._sweeper.prune(before)


class Looking(ResourceCollection[M]):
    """Resources of which each write looks at another one as well, as those of a team's own service may do."""

    def __init__(self, world: World, participant: Participant, resources: ResourceType[M]) -> None:
        super().__init__(participant, resources)
        self._world = world

    def changing(self, key: str, change: Change[M, Reply]) -> Callable[[UnitOfWork], Reply]:
        work, other = super().changing(key, change), KEYS[(KEYS.index(key) + 1) % len(KEYS)] if key in KEYS else KEYS[0]
        kind = self.type.kind

        def look_and_work(unit: UnitOfWork) -> Reply:
            looked_at = seen(kind, unit.get(self.type, other))
            metadata = current().metadata
            if OPERATION in metadata:
                operation = (str(metadata[TRANSACTION_ID]), kind, int(metadata[OPERATION]))
                self._world.oracle.looking[operation] = (kind, other), looked_at
            return work(unit)

        return look_and_work


class CoordinatorServer(Server):
    """Accounts, with the coordinator."""

    def build(self) -> None:
        decisions = SimulatedRegister(self.engine, self.clock)
        replies = SimulatedAnswers(self.engine, self.clock)
        suite = suite_of(self.world, self.process)
        stubs = {name: suite.stub(ParticipantServiceStub, name) for name in self.world.participants}
        notifier = DecisionNotifier(decisions, stubs)
        locks: Any = NoLocks()
        ids = OwnedIds(b"")
        coordinator = Coordinator(decisions, replies, notifier, locks, ids, self.clock)
        self.serve("AccountService", AccountServicer(suite, coordinator))
        self.serve(
            "TransactionService",
            TransactionServicer(decisions, replies, notifier, Holdings(stubs), ids, self.clock),
        )
        self._decisions, self._notifiers = decisions, list(notifier.by_participant.values())

    def background(self) -> list[tuple[float, Callable[[], None]]]:
        profile = self.world.profile
        return [
            *((profile.finishing, each.run_once) for each in self._notifiers),
            (profile.pruning, self.prune_something),
        ]

    def prune(self, before: int) -> None:
        self._decisions.prune(id_at(before))


class NoLocks:
    """Stands for `KeyedLock`, on which nothing rests: without it, more meet. So what a call follows may be long over,
    or not be all that stands in its way."""

    def __init__(self) -> None:
        self._committed: dict[str, Decision] = {}

    @contextmanager
    def holding(self, resource: str) -> Iterator[Turn]:
        turn = Turn(follows=self._committed.get(resource))
        yield turn
        if turn.committed is not None:
            self._committed[resource] = turn.committed


class AnyKey:
    """Stands for `Definitions`: every key is defined, and takes a text."""

    def find(self, keys: Collection[str]) -> dict[str, PreferenceDefinition]:
        return {key: PreferenceDefinition(key=key, type=PREFERENCE_TYPE_STRING) for key in keys}

    def defaults(self) -> dict[str, Value]:
        return {}
