"""A participant tells by the tags of ids whose they are, once the coordinator has told it the keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from handfast.client.propagation import CALLER_KEY
from handfast.server.chassis.call import CURRENT, Call, Method, Pool
from handfast.server.chassis.security.callers import caller_of, on_behalf_of
from handfast.server.chassis.security.identity import Identity
from handfast.server.transactions import wire
from handfast.server.transactions.coordinator.owned_ids import OwnedIds
from handfast.server.transactions.ownership import NotOwner
from handfast.server.transactions.participant import id_owners
from handfast.server.transactions.participant.errors import CoordinatorUnavailable
from handfast.server.transactions.participant.id_owners import IdOwners

METHOD = Method("/s/M", "s", "M", "unary", "s", Pool("calls", 1))
KEY, OTHER_KEY = b"key", b"other key"
IDS = OwnedIds(KEY)


class Coordinator:
    """Tells these keys; does not answer where they are None."""

    def __init__(self, keys: Sequence[bytes] | None) -> None:
        self.keys = keys
        self.asked = 0

    def owner_keys(self) -> Sequence[bytes] | None:
        self.asked += 1
        return self.keys


@pytest.fixture(autouse=True)
def _a_call_of_its_own() -> Iterator[None]:
    token = CURRENT.set(Call(METHOD, METHOD.path))
    yield
    CURRENT.reset(token)


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator([KEY])


@pytest.fixture
def owners(coordinator: Coordinator) -> IdOwners:
    return IdOwners(coordinator.owner_keys)


def staged(
    caller: str | None, id_: str, first_attempt: str = "", *, scopes: Sequence[str] = (), named: str = ""
) -> Call:
    """A call of this caller, who names another one where that is given."""
    entries = (*wire.stage_metadata(id_, 1, 0, first_attempt), *(((CALLER_KEY, named),) if named else ()))
    call = Call(METHOD, METHOD.path, entries)
    if caller is not None:
        call.identity = Identity(caller, "", frozenset(scopes))
        call.caller = caller_of(call, call.identity)
    CURRENT.set(call)
    return call


def check(owners: IdOwners, caller: str | None, id_: str, first_attempt: str = "") -> None:
    owners.check(staged(caller, id_, first_attempt))


def test_the_coordinator_is_asked_once_and_not_where_calls_carry_no_identity(
    owners: IdOwners, coordinator: Coordinator
) -> None:
    check(owners, None, IDS.mint("ada"))
    assert coordinator.asked == 0
    for _ in range(3):
        check(owners, "ada", IDS.mint("ada"), IDS.mint("ada"))
    assert coordinator.asked == 1


@pytest.mark.parametrize("whose", ["id", "first attempt"])
def test_neither_the_transaction_nor_its_first_attempt_may_be_anothers(owners: IdOwners, whose: str) -> None:
    own, anothers = IDS.mint("eve"), IDS.mint("ada")
    with pytest.raises(NotOwner) as refused:
        check(owners, "eve", *((anothers, own) if whose == "id" else (own, anothers)))
    assert refused.value.values == {"transaction_id": anothers}


def test_nobody_stages_before_the_coordinator_has_told_whose_ids_are_and_then_all_do(
    owners: IdOwners, coordinator: Coordinator
) -> None:
    coordinator.keys, id_ = None, IDS.mint("ada")
    with pytest.raises(CoordinatorUnavailable) as refused:
        check(owners, "ada", id_)
    assert refused.value.values == {"transaction_id": id_}
    assert refused.value.retry_after
    coordinator.keys = [KEY]
    check(owners, "ada", id_)


def test_other_keys_are_heard_of_where_an_id_seems_anothers_which_nobody_makes_it_ask_often(
    owners: IdOwners, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(owners, "ada", IDS.mint("ada"))
    coordinator.keys = [OTHER_KEY, KEY]
    newer = OwnedIds(OTHER_KEY)
    for _ in range(3):
        with pytest.raises(NotOwner):
            check(owners, "ada", newer.mint("ada"))
    assert coordinator.asked == 1
    monkeypatch.setattr(id_owners, "PAUSE_S", 0)
    check(owners, "ada", newer.mint("ada"))
    check(owners, "ada", IDS.mint("ada"))
    assert coordinator.asked == 2


def test_what_the_coordinator_has_told_counts_while_it_is_away(
    owners: IdOwners, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(id_owners, "PAUSE_S", 0)
    check(owners, "ada", IDS.mint("ada"))
    coordinator.keys = None
    check(owners, "ada", IDS.mint("ada"))
    with pytest.raises(NotOwner):
        check(owners, "eve", IDS.mint("ada"))


def test_ids_of_a_coordinator_that_does_not_know_its_callers_tell_nothing(
    owners: IdOwners, coordinator: Coordinator
) -> None:
    coordinator.keys = []
    check(owners, "ada", IDS.mint(None))


def test_what_the_coordinator_stages_for_its_caller_is_tagged_for_both(owners: IdOwners) -> None:
    ada = 32 * "a"
    id_, coordinators = IDS.mint(on_behalf_of(ada)), ("callers.forward", "branches.write")
    owners.check(staged("suite", id_, scopes=coordinators, named=ada))
    for scopes, named in ((coordinators, 32 * "b"), (coordinators, ""), (["callers.forward"], ada), ((), ada)):
        with pytest.raises(NotOwner):
            owners.check(staged("suite", id_, scopes=scopes, named=named))


def test_another_service_stages_what_it_has_begun_for_its_caller(owners: IdOwners) -> None:
    ada = 32 * "a"
    id_ = IDS.mint(on_behalf_of(ada, "service"))
    owners.check(staged("service", id_, scopes=["callers.forward"], named=ada))
