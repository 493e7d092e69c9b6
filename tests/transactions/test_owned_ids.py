"""Ids of transactions say to the coordinator whose they are."""

from __future__ import annotations

from contextlib import closing

import pytest

from handfast.server.accounts import tables
from handfast.server.chassis.call import Call, Method, Pool
from handfast.server.chassis.clock import MICROSECONDS_PER_SECOND, now
from handfast.server.chassis.data.database import Database
from handfast.server.transactions import wire
from handfast.server.transactions.coordinator.owned_ids import OwnedIds, load_key
from handfast.server.transactions.horizon import id_at
from handfast.users.v1.users_pb2 import UpdateUserRequest

SECOND = MICROSECONDS_PER_SECOND
METHOD = Method("/s/M", "s", "M", "unary", "s", Pool("calls", 1))


@pytest.fixture
def ids() -> OwnedIds:
    return OwnedIds(b"key")


def test_an_id_belongs_to_its_owner_alone(ids: OwnedIds) -> None:
    minted = ids.mint("ada")
    assert wire.is_transaction_id(minted)
    assert ids.belongs_to(minted, "ada")
    assert ids.belongs_to(minted, "bob", "ada")
    assert not ids.belongs_to(minted, "bob")
    assert not OwnedIds(b"another key").belongs_to(minted, "ada")


@pytest.mark.parametrize("position", [3, 7, 11, 16, 21, 27, 28, 35])
def test_an_id_with_another_digit_belongs_to_nobody(ids: OwnedIds, position: int) -> None:
    minted = ids.mint("ada")
    other = "0" if minted[position] != "0" else "1"
    assert not ids.belongs_to(minted[:position] + other + minted[position + 1 :], "ada")


def test_an_id_without_an_owner_belongs_to_nobody(ids: OwnedIds) -> None:
    minted = ids.mint(None)
    assert wire.is_transaction_id(minted)
    assert not ids.belongs_to(minted, "", "ada")


def test_ids_of_one_millisecond_differ_and_sort_whoever_owns_them() -> None:
    time = now()
    ids = OwnedIds(b"key", lambda: time)
    minted = [ids.mint(f"owner-{number % 7}") for number in range(10_000)]
    assert minted == sorted(set(minted))
    assert {wire.minted_at(id_) // 1000 for id_ in minted} == {time // 1000}


def test_all_replicas_have_the_key_that_the_first_has_made(accounts: Database, database_url: str) -> None:
    first = load_key(accounts, tables.coordinator.owner_key)
    with closing(Database(database_url)) as other_replica:
        assert load_key(other_replica, tables.coordinator.owner_key) == first
    assert len(first) == 32


def test_no_transaction_counts_as_older_than_any_can_be() -> None:
    begun = now()

    def counted(seconds: int) -> str:
        """What counts as the first attempt of a transaction that names one so much older."""
        named = id_at(begun - seconds * SECOND)
        call = Call(METHOD, METHOD.path, wire.stage_metadata(id_at(begun), 1, begun, named))
        stage = wire.parse_stage_request(call, UpdateUserRequest())
        assert stage is not None
        return stage.first_attempt

    assert counted(299) == id_at(begun - 299 * SECOND)
    assert counted(301) == counted(86_400) == id_at(begun - 300 * SECOND)
