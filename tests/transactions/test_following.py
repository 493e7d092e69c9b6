"""A staged call of the coordinator may name the transaction whose change it would meet: that is finished with it."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from handfast.server.chassis.ids import new_id
from handfast.server.transactions.core.model import Decision, Learnt, Outcome, StageRequest
from handfast.server.transactions.participant.errors import PendingChange
from handfast.users.v1.users_pb2 import UpdateUserRequest, UpdateUserResponse, User
from tests.transactions.participants import MINUTE, Coordinator, Users


class Silent(Coordinator):
    def ask(self, transaction_ids: Collection[str]) -> dict[str, Learnt]:
        pytest.fail(f"asked what became of {transaction_ids}")


def name(users: Users, new_name: str, *, follows: str = "", fails: bool = False) -> str:
    """Stages a new name of Ada's. Returns the transaction."""
    stage = StageRequest(id_ := new_id(), 1, users._clock() + MINUTE, id_, b"", follows)

    def change(before: User | None) -> tuple[User, UpdateUserResponse]:
        if fails:
            raise ZeroDivisionError
        changed = User(user_id="ada", email="ada@example.com", display_name=new_name)
        return changed, UpdateUserResponse(user=before)

    users.participant.stage(stage, UpdateUserRequest(), users.collection.changing("ada", change), UpdateUserResponse)
    return id_


@pytest.fixture(autouse=True)
def ada(users: Users) -> None:
    users.create("ada")


def display_name(users: Users) -> str:
    found = users.collection.get("ada")
    assert found is not None
    return found.message.display_name


def test_it_meets_nobody_and_asks_nobody(users: Users) -> None:
    first = name(users, "Augusta")
    users.participant.finisher._resolver = Silent()
    second = name(users, "Ada", follows=first)
    assert users.finish(second, Outcome.COMMITTED, 1)
    assert display_name(users) == "Ada"


def test_what_it_follows_is_finished_and_finished_once(users: Users) -> None:
    first = name(users, "Augusta")
    second = name(users, "Ada", follows=first)
    assert users.finish(first, Outcome.COMMITTED, 1), "it is confirmed again"
    users.coordinator.decisions[second] = Decision(second, Outcome.ABORTED, {})
    assert display_name(users) == "Augusta"
    name(users, "Byron", follows=first)
    assert display_name(users) == "Augusta"


def test_one_that_is_refused_leaves_what_it_follows_to_the_coordinator(users: Users) -> None:
    first = name(users, "Augusta")
    with pytest.raises(ZeroDivisionError):
        name(users, "Ada", follows=first, fails=True)
    users.coordinator.decisions[first] = Decision(first, Outcome.COMMITTED, {"users": 1})
    assert display_name(users) == "Augusta"
    assert users.finish(first, Outcome.COMMITTED, 1)
    assert display_name(users) == "Augusta"


def test_one_that_follows_what_is_not_here_still_meets_what_is(users: Users) -> None:
    name(users, "Augusta")
    branches = users.branches()
    with pytest.raises(PendingChange):
        name(users, "Ada", follows=new_id())
    assert users.branches() == branches, "nothing is left of what is not here"
