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
from tests.simulation.oracle import Shown, seen, write_of
from tests.simulation.scheduler import Process
from tests.simulation.servers import suite_of

if TYPE_CHECKING:
    from tests.simulation.clients import Client

READS = {"GetUser": 3, "GetPreferences": 3, "BatchGetUsers": 1, "BatchGetPreferences": 1}
WRITES = {"UpdateUser": 3, "UpdatePreferences": 3, "CreateUser": 1, "DeleteUser": 1}

Planned = tuple[str, str]
"""A method, and the key of the user whom the call concerns."""


@dataclass
class Attempt:
    transaction: Transaction
    since: int
    shown: list[Shown] = field(default_factory=list)


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
        kinds = READS if rng.random() < profile.only_reading else READS | WRITES
        plan: list[list[Planned]] = []
        for method in rng.choices(list(kinds), list(kinds.values()), k=rng.choice(profile.operations)):
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
                try:
                    shown = shown_by(request, call.result())
                except NotFound:
                    if write_of(request) is not None:
                        raise
                    shown = shown_by(request, None)
                self._note(attempt, shown, since)
        self._oracle.whole[transaction.id] = attempt.shown

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
            case _:
                request = requests.preferences_update(key)
        stub = transaction.users if "User" in method else transaction.preferences
        return getattr(stub, method).future(request), self._oracle.step, request

    def _note(self, attempt: Attempt, shown: Sequence[Shown], since: int) -> None:
        """What it has not written itself is also as any read shows it."""
        written = {before.place for before in attempt.shown if before.write}
        for each in shown:
            if each.write is None and each.place not in written:
                self._oracle.read(each.place, since, each.value, f"a read in {attempt.transaction.id}")
        attempt.shown.extend(shown)

    def _check(self, attempt: Attempt) -> None:
        oracle, transaction = self._oracle, attempt.transaction
        told = f"{self._client.name} was told that {transaction.id} is {transaction.outcome}"
        match transaction.outcome:
            case Outcome.COMMITTED if transaction.id in oracle.decisions or any(each.write for each in attempt.shown):
                oracle.committed(transaction.id, told)
            case Outcome.COMMITTED:
                oracle.shown_together(attempt.shown, attempt.since, told)
            case Outcome.ABORTED:
                oracle.doomed(transaction.id, told)
            case Outcome.UNDECIDED:
                oracle.fail(f"{told}, but its block is left")


def shown_by(request: Any, reply: Any) -> list[Shown]:
    """What a call has shown of the resources that it read or wrote; `reply` is None where there was nothing."""
    write = write_of(request)
    match request:
        case users.BatchGetUsersRequest():
            found = {user.user_id: user for user in reply.users}
            return [Shown(("users", key), seen("users", found.get(key))) for key in request.user_ids]
        case BatchGetPreferencesRequest():
            return [Shown(("preferences", each.user_id), seen("preferences", each)) for each in reply.preferences]
        case users.DeleteUserRequest():
            return [Shown(("users", request.user_id), None, write)]
        case users.GetUserRequest() if reply is None:
            return [Shown(("users", request.user_id), None)]
    participant = "users" if hasattr(reply, "user") else "preferences"
    message = reply.user if participant == "users" else reply.preferences
    return [Shown((participant, message.user_id), seen(participant, message), write)]
