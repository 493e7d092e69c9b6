"""A service that no longer declares a kind of resource, while transactions hold changes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from handfast.server.chassis.data.idempotency import IdempotencyStore
from handfast.server.chassis.ids import new_id
from handfast.server.transactions.core.model import BranchDecision, Outcome
from handfast.server.transactions.participant import Participant, ResourceType, UnitOfWork
from handfast.server.transactions.participant.finishing import FAILED, KIND_GIVEN_UP, Finished
from handfast.server.transactions.participant.store import Store
from tests.transactions.bank import ACCOUNTS, ENTRIES, Bank, enter, entries_table, opened, put, tables

COMMITTED, ABORTED = Outcome.COMMITTED, Outcome.ABORTED


@pytest.fixture
def bank(database_url: str) -> Iterator[Bank]:
    with opened(database_url, a=5) as bank:
        bank.write(enter("old", "old"))
        yield bank


def with_kinds(bank: Bank, *types: ResourceType[Any]) -> Participant:
    """The service in a later version, which declares these."""
    store = Store("users", bank.database, tables, types)
    return Participant(store, IdempotencyStore(bank.database, tables.requests), bank.coordinator, threads=2)


def finish(participant: Participant, *decisions: BranchDecision) -> list[tuple[str, Finished]]:
    return list(participant.finisher.finish_all(decisions, lambda: True))


def both(unit: UnitOfWork) -> None:
    put("a", 6)(unit)
    enter("old", "new")(unit)
    enter("x", "one")(unit)


def look(unit: UnitOfWork) -> None:
    put("a", 6)(unit)
    unit.get(ENTRIES, "old")


def pending_entries(bank: Bank) -> list[str]:
    return [row.entry_id for row in bank.rows(entries_table) if row.pending_transaction_id]


@pytest.mark.parametrize(("work", "outcome", "amount"), [(both, ABORTED, 5), (look, ABORTED, 5), (look, COMMITTED, 6)])
def test_what_is_not_committed_of_it_is_dropped(
    bank: Bank, work: Callable[[UnitOfWork], None], outcome: Outcome, amount: int
) -> None:
    tx = new_id()
    bank.stage(tx, 1, work)
    decision = BranchDecision(tx, outcome, 1 if outcome is COMMITTED else 0)
    assert finish(with_kinds(bank, ACCOUNTS), decision) == [(tx, Finished.CONFIRMED)]
    assert bank.amount("a") == amount
    assert pending_entries(bank) == bank.rows(tables.operations) == bank.rows(tables.claim_changes) == []
    bank.write(enter("old", "one"))  # in a version that declares it again


def test_what_is_committed_of_it_waits_for_the_kind_or_for_an_operator(bank: Bank) -> None:
    kept, lost, other = new_id(), new_id(), new_id()
    bank.stage(kept, 1, both)
    bank.open(b=1)
    later = with_kinds(bank, ACCOUNTS)
    bank.stage(other, 1, put("b", 2))
    decisions = [BranchDecision(id_, COMMITTED, 1) for id_ in (kept, other)]
    with capture_logs() as logs:
        assert finish(later, *decisions) == [(kept, Finished.FAILED), (other, Finished.CONFIRMED)]
    (failure,) = [each for each in logs if each["event"] == FAILED]
    assert str(failure["exc_info"]) == "the service declares no entries, of which changes are committed"
    assert pending_entries(bank) == ["old", "x"]
    assert finish(with_kinds(bank, ACCOUNTS, ENTRIES), decisions[0]) == [(kept, Finished.CONFIRMED)]
    assert bank.amount("a") == 6

    bank.stage(lost, 1, lambda unit: (put("a", 7)(unit), enter("y", "two")(unit)))
    accepted = replace(decisions[0], transaction_id=lost, loss_accepted=True)
    with capture_logs() as logs:
        for _ in range(2):
            assert finish(later, accepted) == [(lost, Finished.CONFIRMED)]
    assert [(each["transaction_id"], each["kind"]) for each in logs if each["event"] == KIND_GIVEN_UP] == [
        (lost, "entries")
    ]
    assert bank.amount("a") == 7
    assert pending_entries(bank) == bank.rows(tables.operations) == bank.rows(tables.claim_changes) == []


def test_a_table_that_is_gone_keeps_nobody_from_finishing(bank: Bank) -> None:
    tx = new_id()
    bank.stage(tx, 1, both)
    entries_table.drop(bank.database.engine)
    assert finish(with_kinds(bank, ACCOUNTS), BranchDecision(tx, ABORTED, 0)) == [(tx, Finished.CONFIRMED)]
    assert bank.amount("a") == 5
