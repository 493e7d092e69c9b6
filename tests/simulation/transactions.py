"""Whole transactions: what callers do by `Suite.transact`, reads and writes over both services, some side by side.

All that is between the caller and the network is the client's own code. What a transaction was shown is kept, and told
the oracle before the transaction ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import greenlet

from handfast.client import Outcome, Transaction
from handfast.client.errors import NotFound, ServiceError
from handfast.preferences.v1.preferences_pb2 import BatchGetPreferencesRequest, GetPreferencesRequest
from handfast.users.v1 import users_pb2 as users
from tests.simulation.bank import BankStub
from tests.simulation.oracle import Answered, Shown, shown_by, write_of
from tests.simulation.scheduler import Process
from tests.simulation.servers import suite_of

if TYPE_CHECKING:
    from tests.simulation.clients import Client

READS = {"GetUser": 3, "GetPreferences": 3, "BatchGetUsers": 1, "BatchGetPreferences": 1}
WRITES = {"UpdateUser": 3, "UpdatePreferences": 3, "CreateUser": 1, "DeleteUser": 1}
OF_THE_BANK = {"GetStatement": 4, "Move": 6}

Planned = tuple[str, str]
"""A method, and the key of the user whom the call concerns."""


@dataclass
class Attempt:
    transaction: Transaction
    since: int
    calls: list[Answered] = field(default_factory=list)

    @property
    def shown(self) -> list[Shown]:
        return [shown for call in self.calls for shown in call.shown]


class Caller:
    """One who runs a transaction, again where that helps, and may die in the middle of it."""

    def __init__(self, client: Client) -> None:
        self._client, self._world, self._rng, self._oracle = client, client.world, client.rng, client.oracle
        self._process = Process(client.name)
        self._suite = suite_of(client.world, self._process)
        self._attempts: list[Attempt] = []

    def run(self) -> None:
        profile = self._world.profile
        plan = self._plan()
        try:
            self._suite.transact(lambda transaction: self._work(transaction, plan), self._rng.choice(profile.timeouts))
        except ServiceError as error:
            self._world.log(self._client.name, f"gives up, as it is told {error}")
        except greenlet.GreenletExit:
            if self._process.alive:
                raise
            transaction_id = self._attempts[-1].transaction.id
            self._world.log(self._client.name, f"has died in the middle of {transaction_id or 'nothing yet'}")
            return
        for attempt in self._attempts:
            self._check(attempt)

    def _plan(self) -> list[list[Planned]]:
        """Calls in their order, those of a list side by side."""
        rng, profile = self._rng, self._world.profile
        only_reads = rng.random() < profile.only_reading
        plan: list[list[Planned]] = []
        for _ in range(rng.choice(profile.operations)):
            is_banking = self._world.has_bank and rng.random() < profile.banking
            kinds = OF_THE_BANK if is_banking else READS | WRITES
            names = [name for name in kinds if "Get" in name or not only_reads]
            [method] = rng.choices(names, [kinds[name] for name in names])
            call = (method, self._client.requests.key())
            if plan and rng.random() < 0.3:
                plan[-1].append(call)
            else:
                plan.append([call])
        return plan

    def _work(self, transaction: Transaction, plan: Sequence[Sequence[Planned]]) -> None:
        attempt = Attempt(transaction, self._oracle.step)
        self._attempts.append(attempt)
        for calls in plan:
            if self._rng.random() < 0.01:
                self._process.alive = False
                raise greenlet.GreenletExit
            begun = [self._begin(transaction, *call) for call in calls]
            for call, since, request in begun:
                write = write_of(request)
                try:
                    reply = call.result()
                except NotFound:
                    if write is not None:
                        raise
                    reply = None
                self._note(attempt, Answered(write, shown_by(request, reply)), since)
        self._oracle.whole[transaction.id] = attempt.calls

    def _begin(self, transaction: Transaction, method: str, key: str) -> tuple[Any, int, Any]:
        requests = self._client.requests
        request: Any
        match method:
            case "GetUser":
                request = users.GetUserRequest(user_id=key)
            case "BatchGetUsers":
                request = users.BatchGetUsersRequest(user_ids=requests.keys)
            case "UpdateUser":
                request = requests.user_update(key)
            case "CreateUser":
                request = requests.user_creation(key)
            case "DeleteUser":
                request = users.DeleteUserRequest(user_id=key)
            case "GetPreferences":
                request = GetPreferencesRequest(user_id=key)
            case "BatchGetPreferences":
                request = BatchGetPreferencesRequest(user_ids=requests.keys)
            case "GetStatement":
                request = requests.statement()
            case "Move":
                request = requests.move()
            case _:
                request = requests.preferences_update(key)
        stub: Any = transaction.users if "User" in method else transaction.preferences
        if method in OF_THE_BANK:
            stub = transaction.stub(BankStub, "bank")
        return getattr(stub, method).future(request), self._oracle.step, request

    def _note(self, attempt: Attempt, answered: Answered, since: int) -> None:
        """What it has not written itself is also as any read shows it."""
        written = {shown.place for call in attempt.calls if call.write for shown in call.shown}
        for each in answered.shown:
            if answered.write is None and each.place not in written:
                self._oracle.read(each.place, since, each.value, f"a read in {attempt.transaction.id}")
        attempt.calls.append(answered)

    def _check(self, attempt: Attempt) -> None:
        oracle, transaction = self._oracle, attempt.transaction
        told = f"{self._client.name} was told that {transaction.id} is {transaction.outcome}"
        match transaction.outcome:
            case Outcome.COMMITTED if transaction.id in oracle.decisions or any(call.write for call in attempt.calls):
                oracle.committed(transaction.id, told)
            case Outcome.COMMITTED:
                oracle.shown_together(attempt.shown, attempt.since, told)
            case Outcome.ABORTED:
                oracle.doomed(transaction.id, told)
            case Outcome.UNDECIDED:
                oracle.fail(f"{told}, but its block is left")
