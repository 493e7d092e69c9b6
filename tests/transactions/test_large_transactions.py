"""A transaction of many operations: each costs what the first one costs, and there is a limit that says so."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from handfast.server.chassis.data.database import Database
from handfast.server.chassis.ids import new_id
from handfast.server.transactions.core import model as rules
from handfast.server.transactions.core.model import Outcome
from handfast.server.transactions.participant.errors import TransactionTooLarge
from handfast.server.users.tables import participant as tables
from handfast.users.v1.users_pb2 import UpdateUserResponse, User
from tests.transactions.participants import Users

FEW, MANY = 40, 160
TIMES = MANY // FEW
SOME = 1.25
"""How much more than that is no sign of anything: pages of an index, first times."""


def work_of(database: Database, act: Callable[[], object]) -> tuple[int, int]:
    """How much work it is, whatever the machine: calls of Python functions, and on SQLite steps of its machine."""
    calls = steps = 0

    def count_call(*_: object) -> None:
        nonlocal calls
        calls += 1

    def count_step() -> int:
        nonlocal steps
        steps += 1
        return 0

    if database.dialect == "sqlite":
        driver: Any = database.write(lambda connection: connection.connection.driver_connection)  # all writes have this
        driver.set_progress_handler(count_step, 1)
    before = sys.getprofile()
    sys.setprofile(count_call)
    try:
        act()
    finally:
        sys.setprofile(before)
        if database.dialect == "sqlite":
            driver.set_progress_handler(None, 0)
    return calls, steps


def staged(users: Users, count: int) -> str:
    """A transaction that creates so many users."""
    transaction_id = new_id()
    for number in range(1, count + 1):
        users.stage(transaction_id, f"{transaction_id}-{number}", number)
    return transaction_id


def test_staging_costs_the_same_however_much_is_staged_already(users: Users) -> None:
    staged(users, 2)  # what is prepared once, is

    def work_after(count: int) -> tuple[int, int]:
        transaction_id = staged(users, count)
        again = f"{transaction_id}-1"

        def stage_some() -> None:
            users.stage(transaction_id, "new" + transaction_id, count + 1)
            users.stage(transaction_id, again, count + 2, email=f"new{again}@example.com")
            users.stage(transaction_id, again, count + 3, email=f"{again}@example.com")

        return work_of(users.database, stage_some)

    for few, many in zip(work_after(FEW), work_after(MANY), strict=True):
        assert many <= SOME * few


@pytest.mark.parametrize("outcome", Outcome)
def test_finishing_costs_as_much_as_is_staged(users: Users, outcome: Outcome) -> None:
    def work_for(count: int) -> tuple[int, int]:
        transaction_id = staged(users, count)
        named = count if outcome is Outcome.COMMITTED else 0
        return work_of(users.database, lambda: users.finish(transaction_id, outcome, named))

    work_for(2)
    for few, many in zip(work_for(FEW), work_for(MANY), strict=True):
        assert many <= SOME * TIMES * few


def test_reading_a_pending_change_costs_the_same_however_large_its_transaction_is(users: Users) -> None:
    def work_of_reads(count: int) -> tuple[int, int]:
        transaction_id = staged(users, count)
        user_id = f"{transaction_id}-1"

        def read() -> None:
            assert users.collection.get(user_id) is None
            assert users.holder(f"{user_id}@example.com") is None

        return work_of(users.database, read)

    work_of_reads(2)
    for few, many in zip(work_of_reads(FEW), work_of_reads(MANY), strict=True):
        assert many <= SOME * few


def test_a_transaction_has_a_number_of_operations_at_the_most(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    transaction_id = staged(users, 2)
    monkeypatch.setattr(rules, "MAX_OPERATIONS", 2)
    assert is_full(users, transaction_id, 2)


def test_a_transaction_has_a_size_at_the_most(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    transaction_id = staged(users, 3)
    of_each = [User(user_id=f"{transaction_id}-{n}", email=f"{transaction_id}-{n}@example.com") for n in (1, 2, 3)]
    sizes = [user.ByteSize() + UpdateUserResponse(user=user).ByteSize() for user in of_each]
    monkeypatch.setattr(rules, "MAX_BYTES", sum(sizes) + 10)
    assert is_full(users, transaction_id, 3)


def is_full(users: Users, transaction_id: str, count: int) -> bool:
    """Whether one operation more is refused, and what was staged before is committed all the same."""
    with pytest.raises(TransactionTooLarge) as refused:
        users.stage(transaction_id, "one-more", count + 1)
    assert refused.value.retry_after is None
    users.create("one-more")  # nothing holds it
    users.finish(transaction_id, Outcome.COMMITTED, count)
    return all(users.collection.get(f"{transaction_id}-{number}") for number in range(1, count + 1))


SWAP = (("ada", "tmp@example.com"), ("bob", "ada@example.com"), ("ada", "bob@example.com"))
"""Who gets which email, operation by operation."""


def swapping(users: Users) -> str:
    users.create("ada", "bob")
    transaction_id = new_id()
    for number, (user_id, email) in enumerate(SWAP, 1):
        users.stage(transaction_id, user_id, number, email)
    return transaction_id


@pytest.mark.parametrize(
    ("named", "ada", "bob", "tmp"),
    [(0, "ada", "bob", None), (1, None, "bob", "ada"), (2, "bob", None, "ada"), (3, "bob", "ada", None)],
)
def test_emails_go_to_who_has_them_after_the_operations_that_are_named(
    users: Users, named: int, ada: str | None, bob: str | None, tmp: str | None
) -> None:
    transaction_id = swapping(users)
    assert [users.holder(f"{name}@example.com") for name in ("ada", "bob", "tmp")] == ["ada", "bob", None]
    users.finish(transaction_id, Outcome.COMMITTED if named else Outcome.ABORTED, named)
    assert [users.holder(f"{name}@example.com") for name in ("ada", "bob", "tmp")] == [ada, bob, tmp]
    with users.database.read() as connection:
        for table in (tables.operations, tables.claim_changes):
            assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0
        pending = tables.claims.c.pending_transaction_id.is_not(None)
        assert connection.execute(sa.select(tables.claims).where(pending)).all() == []


def test_what_is_staged_when_the_schema_is_upgraded_keeps_what_it_makes_of_emails(users: Users) -> None:
    transaction_id = swapping(users)
    users.stage_deletion(transaction_id, "bob", 4)
    users.stage(transaction_id, "cyd", 5)
    changes = sa.select(tables.claim_changes).order_by(*tables.claim_changes.primary_key)
    with users.database.read() as connection:
        before = connection.execute(changes).all()
    revision = importlib.import_module("handfast.server.users.migrations.versions.0002_large_transactions")
    with users.database.engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        revision.downgrade()
        revision.upgrade()
    with users.database.read() as connection:
        assert connection.execute(changes).all() == before
    users.finish(transaction_id, Outcome.COMMITTED, 5)
    assert [users.holder(f"{name}@example.com") for name in ("ada", "bob", "cyd")] == [None, "ada", "cyd"]
