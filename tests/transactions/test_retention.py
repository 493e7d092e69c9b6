"""How long things are kept, by a clock that the tests set: as the background rounds of the servers see to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from handfast.server.accounts import tables
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, now
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.idempotency import Done
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.pruner import Pruner
from handfast.server.transactions.coordinator.reply_store import ReplyStore, StoredReply
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.horizon import id_at
from handfast.server.transactions.participant import sweeper
from handfast.users.v1.users_pb2 import CreateUserRequest, CreateUserResponse, User
from tests.people import new_id
from tests.transactions.participants import Users

METHOD = "/handfast.users.v1.UserService/CreateUser"
MINUTES, HOURS = 60, 3600


class Time:
    """Seconds since the test began; a clock begins there."""

    def __init__(self) -> None:
        self.start = now()
        self.passed = 0

    def clock(self) -> int:
        return self.start + self.passed * MICROSECONDS_PER_SECOND

    def id(self) -> str:
        """Of a transaction that begins now."""
        return id_at(self.clock())


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def users(database_url: str, time: Time) -> Iterator[Users]:
    users = Users(database_url, time.clock)
    yield users
    users.database.close()


def rounds(users: Users) -> None:
    """So many that pruning has its turn."""
    for _ in range(sweeper.SWEEPS_PER_PRUNING):
        users.participant.sweeper._round()


def test_a_finished_branch_is_kept_for_an_hour(users: Users, time: Time) -> None:
    transaction_id = time.id()
    users.stage(transaction_id, "ada")
    users.finish(transaction_id, Outcome.COMMITTED, 1)
    time.passed = 59 * MINUTES
    rounds(users)
    assert users.branches() == 1
    time.passed = 61 * MINUTES
    rounds(users)
    assert users.branches() == 0


def test_pruning_has_its_turn_once_in_so_many_rounds_and_in_the_first(users: Users, time: Time) -> None:
    def finished() -> None:
        transaction_id = time.id()
        users.stage(transaction_id, f"user-{time.passed}")
        users.finish(transaction_id, Outcome.COMMITTED, 1)
        time.passed += 2 * HOURS

    finished()
    users.participant.sweeper._round()
    assert users.branches() == 0
    finished()
    for _ in range(sweeper.SWEEPS_PER_PRUNING - 1):
        users.participant.sweeper._round()
        assert users.branches() == 1
    users.participant.sweeper._round()
    assert users.branches() == 0


def test_an_answer_of_a_plain_write_is_kept_for_a_day(users: Users, time: Time) -> None:
    request = CreateUserRequest(request_id=new_id())

    def call() -> str:
        """Which call its answer comes from."""
        reply = CreateUserResponse(user=User(user_id=str(time.passed)))
        return users.requests.once(METHOD, request, CreateUserResponse, lambda _: Done(reply)).user.user_id

    first = call()
    time.passed = 24 * HOURS - 1
    rounds(users)
    assert call() == first
    time.passed = 24 * HOURS + 1
    rounds(users)
    assert call() != first


def test_a_decision_and_an_answer_of_an_account_call_are_kept_for_a_day(accounts: Database, time: Time) -> None:
    register = DecisionStore(accounts, tables.coordinator, time.clock)
    answers = ReplyStore(accounts, tables.coordinator.answers, time.clock)
    pruner = Pruner(register, answers, time.clock)
    transaction_id = time.id()
    answer = StoredReply("m", new_id(), b"", transaction_id, reply=b"reply")
    register.decide(Decision(transaction_id, Outcome.COMMITTED, {"users": 1}))
    register.mark_finished([transaction_id])
    accounts.write(lambda connection: answers.insert(connection, answer))
    time.passed = 24 * HOURS - 1
    pruner._prune()
    assert answers.find("m", answer.request_id) == answer
    assert register.find([transaction_id])[0].keys() == {transaction_id}
    time.passed = 24 * HOURS + 1
    pruner._prune()
    assert answers.find("m", answer.request_id) is None
    assert register.find([transaction_id])[0] == {}


def test_what_is_young_is_left_to_the_coordinator_to_tell(users: Users, time: Time) -> None:
    transaction_id = time.id()
    users.stage(transaction_id, "ada")
    users.coordinator.decisions[transaction_id] = Decision(transaction_id, Outcome.COMMITTED, {"users": 1})
    time.passed = 1
    users.participant.sweeper._round()
    assert unfinished(users) == 1
    time.passed = 3
    users.participant.sweeper._round()
    assert unfinished(users) == 0


def test_a_sweep_goes_through_all_however_many(users: Users, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "BATCH", 3)
    for number in range(7):
        time.passed = number
        transaction_id = time.id()
        users.stage(transaction_id, f"user-{number}")
        if number % 2:  # others stay in the way of those behind them
            users.coordinator.decisions[transaction_id] = Decision(transaction_id, Outcome.ABORTED, {})
    time.passed = 60 // 2
    users.participant.sweeper._round()
    assert unfinished(users) == 4


def unfinished(users: Users) -> int:
    with users.database.read() as connection:
        return users.participant.store.branches.count_unfinished(connection)
