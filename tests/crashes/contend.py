"""Many clients that get in each other's way: python -m tests.crashes.contend --help

First they update few accounts, beside as many that hardly ever meet; then they run transactions (`rivals.py`).

Each client has a label and a preference of its own in every account, and counts in both by account updates. Updates of
the same account get in each other's way, as they write the same two rows, but none may undo another's count.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1.accounts_pb2 import GetAccountRequest, UpdateUserAndPreferencesRequest
from handfast.client import Aborted, ServiceError, Suite
from handfast.preferences.v1 import preferences_pb2 as preferences_pb
from handfast.preferences.v1.preferences_pb2 import Preferences
from handfast.users.v1.users_pb2 import User
from tests.crashes.rivals import compete
from tests.crashes.suite import DATABASES, POSTGRESQL, suite
from tests.crashes.suite import Suite as Started
from tests.databases.postgresql import postgresql
from tests.people import create_user
from tests.replicas.servers import Replicas

CLIENTS, RIVALS = 32, 16
FEW, MANY = 3, 3000
CALL_TIMEOUT = 10.0
FREE_WITHIN = 5.0
"""Seconds after the last update within which every row must be free."""
LOWEST_RATIO = 0.4
"""On a quiet machine it is about a half. Over replicas there is none: calls take turns at each replica alone."""


@dataclass(frozen=True)
class Outcome:
    """`aborted` counts replies that asked to call again, `failed` those that said neither yes nor no."""

    accounts: int
    per_second: float
    updates: int
    aborted: int
    failed: int
    lost: list[str]
    stuck: list[str]

    def __str__(self) -> str:
        return (
            f"{self.accounts:4} accounts: {self.per_second:6.1f} updates/s ({self.updates} updates, {self.aborted} "
            f"aborted, {self.failed} failed), {len(self.lost)} lost updates, {len(self.stuck)} stuck rows"
        )


class _Counter(threading.Thread):
    """One client. `told` has its last count in each account that was acknowledged, `tried` those that may be there."""

    def __init__(self, number: int, client: Suite, user_ids: Sequence[str], stopping: threading.Event) -> None:
        super().__init__(name=f"c{number}", daemon=True)
        self.client, self.told, self.tried = client, dict[str, int](), dict[str, set[int]]()
        self.updates = self.aborted = self.failed = 0
        self._user_ids, self._stopping, self._random = user_ids, stopping, random.Random(number)

    def run(self) -> None:
        while not self._stopping.is_set():
            self.count(self._random.choice(self._user_ids))

    def count(self, user_id: str) -> bool:
        """Counts one further, and again until that is acknowledged or nothing is known of it."""
        next_count = max(self.told.get(user_id, 0), *self.tried.get(user_id, ()), 0) + 1
        request = UpdateUserAndPreferencesRequest(
            user=User(user_id=user_id, labels={self.name: str(next_count)}),
            user_update_mask=FieldMask(paths=[f"labels.{self.name}"]),
            preferences=Preferences(values={self.name: Value(number_value=next_count)}),
            preferences_update_mask=FieldMask(paths=[f"values.{self.name}"]),
        )
        deadline = time.monotonic() + CALL_TIMEOUT
        while time.monotonic() < deadline:
            try:
                self.client.accounts.UpdateUserAndPreferences(request)
            except Aborted as error:
                self.aborted += 1
                time.sleep(self._random.uniform(0.5, 1.5) * (error.retry_after or 0))
            except ServiceError:
                self.failed += 1
                self.tried.setdefault(user_id, set()).add(next_count)
                return False
            else:
                self.updates += 1
                self.told[user_id] = next_count
                self.tried.pop(user_id, None)
                return True
        return False

    def may_see(self, user_id: str) -> set[int]:
        return {self.told.get(user_id, 0), *self.tried.get(user_id, ())}


@contextlib.contextmanager
def connected(database: str, clients: int, replicas: int) -> Iterator[list[Suite]]:
    """Clients of a suite of their own, or of so many replicas of each server if there are several."""
    with tempfile.TemporaryDirectory(prefix="handfast-contend-") as name, contextlib.ExitStack() as stack:
        target: Started | Replicas
        if replicas == 1:
            target = stack.enter_context(suite(database, Path(name)))
        else:
            server = stack.enter_context(postgresql())
            server.execute("ALTER SYSTEM SET max_connections = 1000")  # by default there are 100
            server.kill_and_start()
            target = Replicas(replicas, Path(name), server.create_databases(), {"HANDFAST_LOG_LEVEL": "warning"})
            stack.callback(target.stop)
        target.start()
        yield [stack.enter_context(target.connect(CALL_TIMEOUT)) for _ in range(clients)]


def crowd(faces: Sequence[Suite], *, accounts: int, seconds: float) -> Outcome:
    """Each of the clients counts in new accounts."""
    stopping = threading.Event()
    user_ids = _create(faces, accounts)
    counters = [_Counter(number, face, user_ids, stopping) for number, face in enumerate(faces)]
    started = time.monotonic()
    for counter in counters:
        counter.start()
    time.sleep(seconds)
    stopping.set()
    done = sum(counter.updates for counter in counters)
    lasted = time.monotonic() - started
    for counter in counters:
        counter.join()
    updates = sum(counter.updates for counter in counters)
    stuck = _stuck(counters[0], random.sample(user_ids, min(100, len(user_ids))))
    lost = [fault for user_id in user_ids for fault in _lost(faces[0], counters, user_id)]
    aborted, failed = sum(each.aborted for each in counters), sum(each.failed for each in counters)
    return Outcome(accounts, done / lasted, updates, aborted, failed, lost, stuck)


def _create(faces: Sequence[Suite], accounts: int) -> list[str]:
    for number in range(len(faces)):
        definition = preferences_pb.PreferenceDefinition(
            key=f"c{number}", type=preferences_pb.PREFERENCE_TYPE_NUMBER, description="The count of one client."
        )
        request = preferences_pb.CreatePreferenceDefinitionRequest(definition=definition)
        faces[0].preferences.CreatePreferenceDefinition(request)

    def create(number: int) -> str:
        return create_user(faces[number % len(faces)]).user_id

    with ThreadPoolExecutor(len(faces)) as threads:
        return list(threads.map(create, range(accounts)))


def _stuck(counter: _Counter, user_ids: Sequence[str]) -> list[str]:
    """Those accounts that cannot be updated."""
    since = time.monotonic()
    stuck = []
    for user_id in user_ids:
        while not counter.count(user_id):
            if time.monotonic() - since > FREE_WITHIN:
                stuck.append(user_id)
                break
    return stuck


def _lost(client: Suite, counters: Sequence[_Counter], user_id: str) -> list[str]:
    """Where an account does not show what was acknowledged last, on both sides."""
    account = client.accounts.GetAccount(GetAccountRequest(user_id=user_id)).account
    lost = []
    for counter in counters:
        on_users = int(account.user.labels.get(counter.name, "0"))
        on_preferences = int(account.preferences.values[counter.name].number_value)
        if on_users != on_preferences or on_users not in counter.may_see(user_id):
            expected = sorted(counter.may_see(user_id))
            lost.append(f"{user_id} {counter.name}: {on_users} and {on_preferences}, not {expected}")
    return lost


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make contend ARGS=...", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database", choices=(*DATABASES, "both"), default="both")
    parser.add_argument("--seconds", type=float, default=20, help="for each number of accounts, and transactions (20)")
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"that update ({CLIENTS})")
    parser.add_argument("--rivals", type=int, default=RIVALS, help=f"that run transactions ({RIVALS})")
    parser.add_argument("--replicas", type=int, default=1, help="of each server, on PostgreSQL (1)")
    chosen = parser.parse_args(argv)
    if chosen.replicas > 1:
        chosen.database = POSTGRESQL
    lowest_ratio = LOWEST_RATIO if chosen.replicas == 1 else 0.0
    good = True
    for database in DATABASES if chosen.database == "both" else (chosen.database,):
        outcomes = []
        for accounts in (MANY, FEW):
            with connected(database, chosen.clients, chosen.replicas) as faces:
                outcome = crowd(faces, accounts=accounts, seconds=chosen.seconds)
            print(f"{database:<10} {outcome}", *outcome.lost[:10], *outcome.stuck[:10], sep="\n  ", flush=True)
            outcomes.append(outcome)
        many, few = outcomes
        ratio = few.per_second / many.per_second
        print(f"{database:<10} ratio {ratio:.2f}, to stay above {lowest_ratio:.2f}", flush=True)
        good = good and ratio > lowest_ratio and not any((*many.lost, *many.stuck, *few.lost, *few.stuck))
        with connected(database, chosen.rivals, chosen.replicas) as faces:
            report = compete(faces, prefix="rivals", seconds=chosen.seconds)
        print(f"{database:<10} {report}", flush=True)
        good = good and not report.anomalies and min(report.committed) > 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
