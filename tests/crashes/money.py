"""Clients that move credits between few accounts, and look at all of them, while every server is killed.

Whatever dies, the sum never changes, in no transaction that reads it either; and each transfer that was acknowledged is
there, with both of its entries, while none that was refused is.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from credits.v1.credits_pb2 import Entry, GetBalanceRequest, GrantRequest, ListEntriesRequest, SpendRequest
from credits.v1.credits_pb2_grpc import CreditsServiceStub

from handfast.client import ServiceError, Suite, Transaction
from tests.crashes import killing
from tests.crashes.killing import counts
from tests.crashes.suite import CREDITS, suite
from tests.crashes.transactions import PREFERENCES, TIMEOUT, USERS, Refused, Row, transact
from tests.crashes.worker import Worker, stop_all
from tests.crashes.world import Seen, World, insist
from tests.serializability.checker import Anomaly, check
from tests.serializability.history import Outcome, Read, Write
from tests.serializability.history import Transaction as Noted

ACCOUNTS = [f"account-{number}" for number in range(10)]
BALANCE = 100
"""What each begins with."""
CLIENTS, SECONDS = 16, 60.0
CALL_TIMEOUT, PATIENCE = 5.0, 60.0
RARER, LONGEST_PAUSE = 20, 8.0
"""Fewer kills than among calls, so that most transfers come through: each needs several servers at once."""
START = "start"
"""The note of what each begins with."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """`numbers` are those of its entries, by account; `noted` has what it read and wrote beside them; `error` is why it
    was not acknowledged.
    """

    mark: str
    numbers: Mapping[str, int]
    noted: Noted
    error: str

    @property
    def acknowledged(self) -> bool:
        return self.noted.outcome is Outcome.COMMITTED


class _Mover(Worker):
    def __init__(self, name: str, client: Suite, world: World, stopping: threading.Event, seed: str) -> None:
        super().__init__(name)
        self._client, self._world, self._stopping = client, world, stopping
        self._random = random.Random(f"{seed} {name}")
        self.transfers: list[Transfer] = []
        self.sums: list[int] = []
        """What was seen by looking at all accounts at once."""

    def work(self) -> None:
        while not self._stopping.is_set():
            if self._random.random() < 0.2:
                self._look()
            else:
                self._move()

    def _look(self) -> None:
        with contextlib.suppress(ServiceError):
            self.sums.append(look(self._client, TIMEOUT))

    def _move(self) -> None:
        """Most look before they spend, and some touch a user and preferences as well."""
        mark, seen, numbers = f"{self.name}-{len(self.transfers)}", Seen(), dict[str, int]()
        source, target = self._random.sample(ACCOUNTS, 2)
        share = self._random.choice((None, 2, 3))
        amount = self._random.randint(1, 30)
        touched = [Row(self._world, kind, self._random.choice(self._world.ids)) for kind in (USERS, PREFERENCES)]
        touches = self._random.random() < 0.3

        def attempt(tx: Transaction) -> None:
            seen.operations.clear()
            numbers.clear()
            credits = tx.stub(CreditsServiceStub, CREDITS)
            much = amount
            if share is not None:
                much = max(1, credits.GetBalance(GetBalanceRequest(account_id=source)).balance // share)
            spent = credits.Spend(SpendRequest(account_id=source, amount=much, note=mark)).entry
            granted = credits.Grant(GrantRequest(account_id=target, amount=much, note=mark)).entry
            numbers.update({source: _number(spent), target: _number(granted)})
            for row in touched if touches else ():
                row.read(tx, seen)
                row.write(tx, seen, mark)

        began, outcome, told = time.monotonic(), Outcome.COMMITTED, ""
        try:
            transact(self._client, attempt, TIMEOUT)
        except Refused as error:
            outcome, told = Outcome.ABORTED, str(error)
        except ServiceError as error:
            outcome, told = Outcome.UNKNOWN, error.reason
        noted = Noted(f"{self.name} transfer", began, time.monotonic(), outcome, tuple(seen.operations))
        self.transfers.append(Transfer(mark, numbers, noted, told))


@dataclass(frozen=True)
class Report:
    transfers: Sequence[Transfer]
    sums: Sequence[int]
    kills: Counter[str]
    violations: Sequence[str | Anomaly]

    @property
    def acknowledged(self) -> int:
        return _acknowledged(self.transfers)

    def __str__(self) -> str:
        outcomes = Counter(each.noted.outcome.name.lower() for each in self.transfers)
        errors = Counter(each.error for each in self.transfers if not each.acknowledged)
        lines = [
            f"{len(self.transfers)} transfers: {counts(outcomes)}; the sum was read {len(self.sums)} times",
            f"not committed for {counts(errors)}",
            f"{self.kills.total()} kills: {counts(self.kills)}",
            f"{len(self.violations)} violations",
            *map(str, self.violations[:10]),
        ]
        return "\n".join(lines)


def move(
    database: str,
    *,
    folder: Path,
    seconds: float,
    clients: int,
    seed: str,
    longest_pause: float = LONGEST_PAUSE,
) -> Report:
    """Runs for so long; then lets it settle, and counts."""
    world, stopping = World(), threading.Event()
    with suite(database, folder, credits=True) as target, contextlib.ExitStack() as stack:
        target.start(killing.points(RARER))
        faces = [stack.enter_context(target.connect(CALL_TIMEOUT)) for _ in range(clients)]
        world.create(faces[0])
        _begin(faces[0])
        movers = [_Mover(f"c{number}", face, world, stopping, seed) for number, face in enumerate(faces)]
        stack.callback(stop_all, movers, stopping)
        for mover in movers:
            mover.start()
        killing.kill_again_and_again(
            target,
            random.Random(seed),
            seconds=seconds,
            longest_pause=longest_pause,
            done=lambda: sum(_acknowledged(mover.transfers) for mover in movers),
        )
        stopping.set()
        target.kill_all()
        target.start()
        stop_all(movers, stopping)
        transfers = [each for mover in movers for each in mover.transfers]
        with target.connect(CALL_TIMEOUT) as client:
            sums = [*itertools.chain(*(mover.sums for mover in movers)), look(client, PATIENCE)]
            entries = {account: _entries(client, account) for account in ACCOUNTS}
        return Report(transfers, sums, target.kills(), list(violations(transfers, sums, entries)))


def _acknowledged(transfers: Sequence[Transfer]) -> int:
    return sum(each.acknowledged for each in transfers)


def _begin(client: Suite) -> None:
    for account in ACCOUNTS:
        request = GrantRequest(account_id=account, amount=BALANCE, note=START, request_id=str(uuid.uuid4()))
        insist(client.stub(CreditsServiceStub, CREDITS).Grant, request)


def look(client: Suite, timeout: float) -> int:
    """The sum of all accounts, in one transaction."""

    def attempt(tx: Transaction) -> int:
        credits = tx.stub(CreditsServiceStub, CREDITS)
        return sum(int(credits.GetBalance(GetBalanceRequest(account_id=each)).balance) for each in ACCOUNTS)

    return client.transact(attempt, timeout)


def _entries(client: Suite, account: str) -> list[Entry]:
    found, request = list[Entry](), ListEntriesRequest(account_id=account, page_size=1000)
    while True:
        page = insist(client.stub(CreditsServiceStub, CREDITS).ListEntries, request)
        found += page.entries
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def _number(entry: Entry) -> int:
    return int(entry.entry_id.rpartition("/")[2])


def violations(
    transfers: Sequence[Transfer], sums: Sequence[int], entries: Mapping[str, Sequence[Entry]]
) -> Iterator[str | Anomaly]:
    """What is wrong with transfers, the sums that were seen, and the entries of each account at the end."""
    yield from (f"the sum of all accounts was {found}" for found in sums if found != BALANCE * len(ACCOUNTS))
    amounts = defaultdict[str, list[int]](list)
    for account, found in entries.items():
        yield from _broken(account, found)
        for entry in found:
            amounts[entry.note].append(entry.amount)
    for mark, moved in amounts.items():
        if mark != START and (len(moved) != 2 or sum(moved) != 0):
            yield f"transfer {mark} moved {moved}"
    for each in transfers:
        for account, number in each.numbers.items() if each.acknowledged else ():
            if [entry.note for entry in entries[account][number - 1 : number]] != [each.mark]:
                yield f"entry {number} of {account} is not that of the acknowledged transfer {each.mark}"
    yield from check(_history(transfers, entries), World.initial)


def _broken(account: str, entries: Sequence[Entry]) -> Iterator[str]:
    """Each entry goes on from the one before."""
    balance = 0
    for number, entry in enumerate(entries, 1):
        balance += entry.amount
        if (_number(entry), entry.balance) != (number, balance) or balance < 0:
            yield f"entry {number} of {account} is {entry}, with which it should have {balance}"


def _history(transfers: Sequence[Transfer], entries: Mapping[str, Sequence[Entry]]) -> list[Noted]:
    """What transfers read and wrote. An account is an object whose value is the note of its last entry."""
    before = {
        (account, entry.note): earlier.note
        for account, found in entries.items()
        for earlier, entry in itertools.pairwise(found)
    }
    history = []
    for each in transfers:
        operations = [*each.noted.operations]
        for account in each.numbers:
            if (account, each.mark) in before:
                operations.append(Read(account, before[account, each.mark]))
            operations.append(Write(account, each.mark))
        history.append(replace(each.noted, operations=operations))
    end = max(each.noted.ended for each in transfers)
    last = [Read(account, found[-1].note) for account, found in entries.items()]
    return [*history, Noted("last look", end, end, Outcome.COMMITTED, last)]
