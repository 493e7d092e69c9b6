"""Plain reads between the decision and the finish, and while a value changes hands."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handfast.server.transactions.core.model import Decision, Outcome, UniqueKey
from tests.transactions.participants import Users, old_id


def committed(users: Users, *user_ids: str) -> str:
    """A transaction that has created them, is committed, and not finished here."""
    transaction_id = old_id(60)
    for number, user_id in enumerate(user_ids, 1):
        users.stage(transaction_id, user_id, number)
    users.coordinator.decisions[transaction_id] = Decision(transaction_id, Outcome.COMMITTED, {"users": len(user_ids)})
    return transaction_id


def test_what_is_created_is_listed_as_soon_as_it_is_committed(users: Users) -> None:
    users.create("bob")
    users.stage(old_id(50), "cyd")  # undecided
    transaction_id = committed(users, "ada", "dee")
    for _ in range(2):
        assert [user.user_id for user in users.collection.page("", 10)[0]] == ["ada", "bob", "dee"]
        assert users.collection.batch(["ada", "bob", "cyd", "dee"]).keys() == {"ada", "bob", "dee"}
        assert {each.last_transaction_id for each in users.collection.batch(["ada", "dee"]).values()} == {
            transaction_id
        }
        assert [users.holder(f"{name}@example.com") for name in ("ada", "cyd")] == ["ada", None]
        users.finish(transaction_id, Outcome.COMMITTED, 2)


def test_what_is_created_is_on_the_page_of_its_key(users: Users) -> None:
    users.create("ada", "eve")
    committed(users, "bob", "cyd")
    page, after = users.collection.page("", 2)
    assert ([user.user_id for user in page], after) == (["ada", "bob"], "bob")
    page, after = users.collection.page(after, 2)
    assert ([user.user_id for user in page], after) == (["cyd", "eve"], "")


def test_what_is_deleted_is_no_longer_listed_as_soon_as_that_is_committed(users: Users) -> None:
    users.create("ada", "bob")
    transaction_id = old_id(60)
    users.stage_deletion(transaction_id, "ada", 1)
    users.coordinator.decisions[transaction_id] = Decision(transaction_id, Outcome.COMMITTED, {"users": 1})
    assert [user.user_id for user in users.collection.page("", 10)[0]] == ["bob"]
    assert users.collection.batch(["ada", "bob"]).keys() == {"bob"}
    assert users.holder("ada@example.com") is None


def changes_hands(users: Users) -> None:
    transaction_id = old_id(60)
    users.stage(transaction_id, "ada", 1, email="new@example.com")
    users.stage(transaction_id, "bob", 2, email="ada@example.com")
    users.finish(transaction_id, Outcome.COMMITTED, 2)


def deleted(users: Users) -> None:
    transaction_id = old_id(60)
    users.stage_deletion(transaction_id, "ada", 1)
    users.finish(transaction_id, Outcome.COMMITTED, 1)


@pytest.mark.parametrize(("meanwhile", "holder"), [(changes_hands, "bob"), (deleted, None)])
def test_a_look_up_returns_nobody_who_has_just_lost_the_value(
    users: Users, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Users], None], holder: str | None
) -> None:
    users.create("ada", "bob")
    unique_keys = users.participant.store.unique_keys
    find, found = unique_keys.find, list[UniqueKey]()

    def find_and_then_lose(connection: object, value: str) -> UniqueKey:
        found.append(find(connection, value))  # type: ignore[arg-type]
        if len(found) == 1:
            meanwhile(users)
        return found[-1]

    monkeypatch.setattr(unique_keys, "find", find_and_then_lose)
    assert users.holder("ada@example.com") == holder
    assert [key.holder for key in found] == ["ada", holder]
