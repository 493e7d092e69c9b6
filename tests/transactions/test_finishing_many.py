"""Branches are finished many at once by statements for many rows, and each ends as it would alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from handfast.server.chassis.data.statements import Statement
from handfast.server.chassis.errors import DatabaseUnavailable
from handfast.server.transactions.core import finishing as rules
from handfast.server.transactions.core.model import BranchDecision, Outcome
from handfast.server.transactions.core.reading import revision_after
from handfast.server.transactions.participant.finishing import FAILED, Finished
from handfast.server.users.tables import participant as tables
from handfast.server.users.tables import users as users_table
from tests.transactions.participants import Users, old_id

OLD = 5000
"""Seconds since the first of these transactions began."""


def committed(id_: str, count: int, *, loss_accepted: bool = False) -> BranchDecision:
    return BranchDecision(id_, Outcome.COMMITTED, count, loss_accepted)


def aborted(id_: str) -> BranchDecision:
    return BranchDecision(id_, Outcome.ABORTED, 0)


def staged(users: Users, name: str, first: int) -> tuple[list[BranchDecision], list[bool]]:
    """Transactions of every kind, and what each is confirmed with. All their users have names that begin with
    `name`; their ids are those of `first` seconds ago and later.
    """
    users.create(*(f"{name}-{each}" for each in ("ada", "bob", "cyd", "dee", "eve")))
    ids = [old_id(first - number) for number in range(12)]
    users.stage(ids[0], f"{name}-ada")
    users.stage(ids[1], f"{name}-bob")
    users.stage(ids[2], f"{name}-created")
    users.stage(ids[3], f"{name}-never-created")
    users.stage_deletion(ids[4], f"{name}-cyd", 1)
    users.stage(ids[5], f"{name}-dee", 1, email=f"{name}-1@example.com")
    users.stage(ids[5], f"{name}-dee", 2, email=f"{name}-2@example.com")
    users.stage(ids[5], f"{name}-unnamed", 3)
    users.stage(ids[6], f"{name}-eve", 1, email=f"{name}-3@example.com")
    users.stage(ids[9], f"{name}-finished")
    users.finish(ids[9], Outcome.COMMITTED, 1)
    users.stage(ids[10], f"{name}-lost")
    users.stage(ids[11], f"{name}-loss-accepted")
    decisions = [
        committed(ids[0], 1),
        aborted(ids[1]),
        committed(ids[2], 1),
        aborted(ids[3]),
        committed(ids[4], 1),
        committed(ids[5], 2),
        aborted(ids[6]),
        aborted(ids[7]),  # of which nothing was staged
        committed(ids[8], 1),
        committed(ids[9], 1),
        committed(ids[10], 2),
        committed(ids[11], 2, loss_accepted=True),
    ]
    lost = {8, 10}
    return decisions, [n not in lost for n in range(len(decisions))]


def stored(users: Users, name: str, decisions: list[BranchDecision]) -> dict[str, list[tuple[Any, ...]]]:
    """All that the database has of these transactions and users, without the names that tell two sets apart."""
    ids = [decision.transaction_id for decision in decisions]
    numbers = {text: number for number, id_ in enumerate(ids) for text in (id_, revision_after(id_))}

    def shown(column: str, value: object) -> object:
        if column in ("last_transaction_id", "revision"):
            return numbers.get(str(value), "of another transaction")
        if isinstance(value, str):
            return numbers.get(value, value.replace(name, "…"))
        return value

    stored = {}
    with users.database.read() as connection:
        for table in (tables.branches, tables.operations, tables.claims, tables.claim_changes, users_table):
            volatile = {"deadline", "first_attempt", "image", "reply", "reads"}
            columns = [column for column in table.c if column.name not in volatile]
            rows = connection.execute(sa.select(*columns)).all()
            of_these = [row for row in rows if any(isinstance(v, str) and (v in numbers or name in v) for v in row)]
            names = [column.name for column in columns]
            stored[table.name] = sorted((tuple(map(shown, names, row)) for row in of_these), key=repr)
    return stored


def test_each_ends_as_it_would_alone(users: Users) -> None:
    together, expected = staged(users, "joint", OLD)
    alone, _ = staged(users, "alone", OLD - 100)
    assert list(users.participant.finisher.finish(*together).values()) == expected
    assert [users.participant.finisher.finish(each)[each.transaction_id] for each in alone] == expected
    assert stored(users, "joint", together) == stored(users, "alone", alone)
    assert users.collection.get("joint-created") is not None
    assert users.collection.get("joint-cyd") is users.collection.get("joint-never-created") is None
    assert [users.holder(f"joint-{n}@example.com") for n in (1, 2, 3)] == [None, "joint-dee", None]
    repeated = users.participant.finisher.finish(*together)
    assert list(repeated.values()) == expected


def test_what_is_forgotten_is_confirmed_among_others(users: Users) -> None:
    forgotten, at_hand = old_id(OLD), old_id(60)
    users.stage(forgotten, "ada")
    users.finish(forgotten, Outcome.COMMITTED, 1)
    users.participant.sweeper.prune(0)
    assert users.branches() == 1
    users.participant.sweeper.prune(10**18)
    users.stage(at_hand, "bob")
    results = users.participant.finisher.finish(committed(forgotten, 1), committed(at_hand, 1))
    assert set(results.values()) == {True}
    assert users.branches() == 1


def statements(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> int:
    """How many statements are executed by it, one for many rows counting as one."""
    count = 0
    for name in ("all", "run", "send_each"):
        do: Any = getattr(Statement, name)

        def counted(self: Statement, *arguments: Any, do: Any = do, **values: Any) -> Any:
            nonlocal count
            count += 1
            return do(self, *arguments, **values)

        monkeypatch.setattr(Statement, name, counted)
    act()
    monkeypatch.undo()
    return count


def test_many_take_as_many_statements_as_few(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(count: int, first: int) -> int:
        ids = [old_id(first - number) for number in range(count)]
        for id_ in ids:
            users.stage(id_, f"user-{id_}")
        decisions = [committed(id_, 1) if number % 2 else aborted(id_) for number, id_ in enumerate(ids)]
        return statements(monkeypatch, lambda: users.participant.finisher.finish(*decisions))

    assert work(40, OLD) == work(4, OLD - 100)


@pytest.mark.parametrize("error", [ValueError("cannot be finished"), DatabaseUnavailable("It is away.")], ids=str)
def test_a_batch_that_fails_is_finished_one_by_one(
    users: Users, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    ids = [old_id(60 - number) for number in range(3)]
    for number, id_ in enumerate(ids):
        users.stage(id_, f"user-{number}")
    finish = rules.finish

    def fail(decision: BranchDecision, *others: Any) -> Any:
        if decision.transaction_id == ids[1]:
            raise error
        return finish(decision, *others)

    monkeypatch.setattr(rules, "finish", fail)
    results = users.participant.finisher.finish_all([committed(id_, 1) for id_ in ids], lambda: True)
    assert next(results) == (ids[0], Finished.CONFIRMED)
    concerns_all = isinstance(error, DatabaseUnavailable)
    if concerns_all:
        with pytest.raises(DatabaseUnavailable):
            next(results)
    else:
        with capture_logs() as lines:
            last = list(results)
        assert last == [(ids[1], Finished.FAILED), (ids[2], Finished.CONFIRMED)]
        assert [(line["event"], line["transaction_id"], line["exc_info"]) for line in lines] == [
            (FAILED, ids[1], error)
        ]
    found = [users.collection.get(f"user-{number}") is not None for number in range(3)]
    assert found == [True, False, not concerns_all]


def test_nothing_more_is_finished_once_nobody_waits(users: Users) -> None:
    decisions = [aborted(old_id(3600 - number)) for number in range(rules.BATCH_PARTS + 1)]
    answers = iter([True, False])
    results = list(users.participant.finisher.finish_all(decisions, lambda: next(answers)))
    assert [id_ for id_, _ in results] == [each.transaction_id for each in decisions[:-1]]


def test_a_write_that_cannot_go_on_keeps_none_of_the_values_that_the_other_transaction_needs(users: Users) -> None:
    users.create("ada")
    pending = old_id(60)
    users.stage(pending, "ada", email="middle@example.com")
    unique_keys = users.participant.store.unique_keys
    values = [f"email:{name}@example.com" for name in ("after", "middle", "zenith")]
    with users.database.engine.begin() as connection:
        locked = unique_keys.lock(connection, values, None)
    assert [(key.value, key.pending_transaction_id) for key in locked] == [(values[0], None), (values[1], pending)]
