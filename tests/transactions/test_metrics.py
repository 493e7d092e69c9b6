"""The metrics of transactions: as real servers show them, and as they count a register one by one."""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from handfast.client import Suite, channel
from handfast.server.accounts import tables as accounts_tables
from handfast.server.accounts.server import REASONS, SCHEMA
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.data.migrations import upgrade
from handfast.server.chassis.errors import CallDeadlineExceeded
from handfast.server.chassis.ids import new_id
from handfast.server.process.settings import sqlite_url
from handfast.server.transactions.coordinator.decision_store import DecisionStore
from handfast.server.transactions.coordinator.notifier import DecisionNotifier
from handfast.server.transactions.core.model import Decision, Outcome
from handfast.server.transactions.horizon import id_at
from handfast.server.transactions.metrics import export_coordinator, export_participant
from handfast.server.transactions.participant.errors import PendingChange
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import ParticipantServiceStub
from handfast.users.v1.users_pb2 import DeleteUserRequest
from tests.cli.processes import Process
from tests.eventually import eventually
from tests.people import create_user
from tests.transactions.calls import Transaction
from tests.transactions.participants import Users, old_id

USERS, PREFERENCES, ACCOUNTS = 100, 101, 102
"""Where their metrics are, from the first port on."""


def scrape(running: Process, offset: int, prefix: str = "handfast_") -> dict[str, float]:
    """Each sample by its name and the values of its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{running.first_port + offset}/metrics") as reply:
        text = reply.read().decode()
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(prefix)
    }


def staged(client: Suite) -> Transaction:
    """A transaction with one operation staged."""
    tx = Transaction(client)
    tx.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=create_user(client).user_id))
    return tx


def test_a_server_counts_what_it_decides_and_how_long_it_took(running: Process, client: Suite) -> None:
    before = scrape(running, ACCOUNTS)

    def increase(name: str) -> float:
        return scrape(running, ACCOUNTS).get(name, 0.0) - before.get(name, 0.0)

    committed, rolled_back = staged(client), staged(client)
    for _ in range(2):  # a repeat is no other decision
        committed.commit()
        rolled_back.rollback()
    assert increase("handfast_transactions_decided_total committed ") == 1
    assert increase("handfast_transactions_decided_total aborted other") == 1
    assert increase("handfast_transaction_decide_seconds_count committed") == 1
    assert 0 < increase("handfast_transaction_decide_seconds_sum committed") < 30
    assert eventually(lambda: increase("handfast_transaction_finish_seconds_count committed") >= 1)
    assert eventually(lambda: increase("handfast_transaction_finish_seconds_count aborted") >= 1)


def test_servers_show_what_is_in_doubt(running: Process, client: Suite) -> None:
    in_doubt = "handfast_transactions_in_doubt"
    tx = staged(client)

    def counts_as_it_lists() -> bool:
        """Other tests leave branches behind, which go away meanwhile."""
        listed = [branch.transaction_id for branch in participant.ListBranches(pb.ListBranchesRequest()).branches]
        return tx.id in listed and scrape(running, USERS)[in_doubt] == len(listed)

    with channel(running.addresses["users"]) as to_users:
        participant = ParticipantServiceStub(to_users)
        assert eventually(counts_as_it_lists)
    assert scrape(running, USERS)["handfast_transactions_in_doubt_oldest_seconds"] > 0
    tx.rollback()
    assert scrape(running, ACCOUNTS)[in_doubt] >= 0


def test_a_participant_counts_what_it_finds_lost_and_nothing_else(running: Process, addresses: dict[str, str]) -> None:
    """On preferences: other tests have users lose something for good, which sweepers find all the time."""

    def lost() -> float:
        return scrape(running, PREFERENCES)["handfast_committed_changes_lost_total"]

    def finish(state: pb.TransactionState.ValueType, count: int) -> pb.FinishResult.ValueType:
        decision = pb.Decision(transaction_id=new_id(), state=state, operation_count=count)
        (result,) = participant.FinishTransactions(pb.FinishTransactionsRequest(decisions=[decision])).results
        return result.result

    before = lost()
    with channel(addresses["preferences"]) as to_preferences:
        participant = ParticipantServiceStub(to_preferences)
        assert finish(pb.TRANSACTION_STATE_ABORTED, 1) == pb.FINISH_RESULT_CONFIRMED
        assert lost() == before
        assert finish(pb.TRANSACTION_STATE_COMMITTED, 1) == pb.FINISH_RESULT_LOST
        assert lost() == before + 1


def test_a_participant_counts_what_writes_meet_by_whether_it_is_decided(users: Users) -> None:
    registry = CollectorRegistry()
    export_participant(registry, users.participant)

    def met() -> list[float | None]:
        name = "handfast_pending_changes_met_total"
        return [registry.get_sample_value(name, {"state": state}) for state in ("decided", "undecided")]

    users.create("ada")
    assert met() == [0, 0]
    first, second = old_id(60), old_id(50)
    users.stage(first, "ada")
    with pytest.raises(PendingChange):
        users.stage(second, "ada")
    assert met() == [0, 1]
    users.coordinator.decisions[first] = Decision(first, Outcome.COMMITTED, {"users": 1})
    users.stage(second, "ada")
    assert met() == [1, 1]


class Counted:
    """A register with its metrics."""

    def __init__(self, database: Database) -> None:
        self.registry = CollectorRegistry()
        self.clock = 1_800_000_000_000_000
        self.register = DecisionStore(database, accounts_tables.coordinator, lambda: self.clock)
        notifier = DecisionNotifier(self.register, {})
        export_coordinator(self.registry, self.register, notifier, REASONS, lambda: self.clock)

    def begin(self) -> str:
        return id_at(self.clock)

    def pass_seconds(self, seconds: int) -> None:
        self.clock += seconds * 1_000_000

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"handfast_{name}", labels)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(sqlite_url(tmp_path / "transactions.sqlite3"))
    upgrade(database, SCHEMA)
    yield database
    database.close()


@pytest.fixture
def counted(database: Database) -> Counted:
    return Counted(database)


def test_times_are_those_of_the_register(counted: Counted) -> None:
    id_ = counted.begin()
    counted.pass_seconds(3)
    counted.register.decide(Decision(id_, Outcome.COMMITTED, {"users": 1}))
    assert counted.value("transactions_in_doubt") == 1
    counted.pass_seconds(4)
    for _ in range(2):  # as two replicas do
        counted.register.mark_finished([id_])
        counted.pass_seconds(5)
    assert counted.value("transaction_decide_seconds_sum", outcome="committed") == 3
    assert counted.value("transaction_finish_seconds_sum", outcome="committed") == 4
    assert counted.value("transaction_finish_seconds_count", outcome="committed") == 1
    assert counted.value("transactions_in_doubt") == 0


def test_the_time_of_finishing_is_that_of_the_first_to_mark_it(counted: Counted) -> None:
    id_ = counted.begin()
    counted.register.decide(Decision(id_, Outcome.COMMITTED, {"users": 1}))
    counted.register.mark_finished([id_])
    finished = counted.clock
    counted.pass_seconds(5)
    counted.register.mark_finished([id_])
    assert counted.register.find([id_])[0][id_].finish_time == finished


def test_the_oldest_in_doubt_is_as_old_as_its_transaction(counted: Counted) -> None:
    oldest = "transactions_in_doubt_oldest_seconds"
    assert counted.value(oldest) == 0
    first = counted.begin()
    counted.pass_seconds(3)
    second = counted.begin()
    for id_ in (second, first):
        counted.register.decide(Decision(id_, Outcome.COMMITTED, {"users": 1}))
    counted.pass_seconds(4)
    assert counted.value(oldest) == 7
    counted.register.mark_finished([first])
    assert counted.value(oldest) == 4


@pytest.mark.parametrize(
    ("abort_reason", "label"),
    [
        ("EMAIL_TAKEN", "EMAIL_TAKEN"),
        ("PREFERENCES_CHANGED", "PREFERENCES_CHANGED"),
        ("TRANSACTION_EXPIRED", "TRANSACTION_EXPIRED"),
        ("INVALID_FIELDS", "INVALID_FIELDS"),
        ("REQUEST_REPEATED", "REQUEST_REPEATED"),
        ("ROLLED_BACK", "ROLLED_BACK"),
        ("OUT_OF_CREDITS", "other"),
        ("", "other"),
    ],
)
def test_reasons_that_callers_invent_make_no_series_of_their_own(
    counted: Counted, abort_reason: str, label: str
) -> None:
    counted.register.decide(Decision(counted.begin(), Outcome.ABORTED, {"users": 0}, abort_reason))
    assert counted.value("transactions_decided_total", outcome="aborted", reason=label) == 1


def test_a_decision_that_is_rolled_back_is_not_counted(counted: Counted) -> None:
    id_ = counted.begin()
    register = counted.register

    def too_late(connection: object) -> None:
        register.insert(connection, Decision(id_, Outcome.COMMITTED, {"users": 1}))  # type: ignore[arg-type]
        raise CallDeadlineExceeded("Too late.")

    with pytest.raises(CallDeadlineExceeded):
        register.database.write(too_late)
    assert counted.value("transactions_decided_total", outcome="committed", reason="") == 0
    register.decide(Decision(id_, Outcome.ABORTED, {"users": 0}, "DEADLINE_EXCEEDED"))
    assert counted.value("transactions_decided_total", outcome="aborted", reason="DEADLINE_EXCEEDED") == 1


def test_a_database_that_is_away_does_not_keep_the_other_metrics_away(counted: Counted, tmp_path: Path) -> None:
    counted.register.database.close()
    for file in tmp_path.iterdir():
        file.rename(file.with_suffix(".away"))
    for name in ("transactions_in_doubt", "transactions_in_doubt_oldest_seconds"):
        value = counted.value(name)
        assert value is not None
        assert math.isnan(value)
    assert counted.value("transactions_decided_total", outcome="committed", reason="") == 0
