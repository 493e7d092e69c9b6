"""Who waits for whom: only an older transaction for a younger one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from handfast.client import Aborted, InvalidArgument, Suite, transaction_metadata
from handfast.server.transactions import wire
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from tests.people import create_user
from tests.transactions.calls import Transaction


def rename(user_id: str, name: str) -> UpdateUserRequest:
    mask = FieldMask(paths=["display_name"])
    return UpdateUserRequest(user=User(user_id=user_id, display_name=name), update_mask=mask)


def begun_before(client: Suite) -> tuple[Transaction, Transaction]:
    """An older transaction and a younger one."""
    older = Transaction(client)
    time.sleep(0.002)  # ids are told apart by milliseconds
    return older, Transaction(client)


@pytest.mark.parametrize("decide", [Transaction.commit, Transaction.rollback])
def test_the_older_waits_until_the_younger_is_decided(client: Suite, decide: object) -> None:
    ada = create_user(client, display_name="Ada")
    older, younger = begun_before(client)
    younger.stage("users", client.users.UpdateUser, rename(ada.user_id, "younger"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(older.stage, "users", client.users.UpdateUser, rename(ada.user_id, "older"))
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        assert callable(decide)
        decide(younger)
        waiting.result(5)
    older.commit()
    assert client.users.GetUser(GetUserRequest(user_id=ada.user_id)).user.display_name == "older"


def test_the_younger_makes_way_at_once(client: Suite) -> None:
    ada = create_user(client)
    older, younger = begun_before(client)
    older.stage("users", client.users.UpdateUser, rename(ada.user_id, "older"))
    with pytest.raises(Aborted) as refused:
        younger.stage("users", client.users.UpdateUser, rename(ada.user_id, "younger"))
    assert (refused.value.reason, refused.value.retryable) == ("PENDING_CHANGE", True)


def test_a_transaction_that_runs_again_keeps_its_age(client: Suite) -> None:
    ada = create_user(client)
    first_attempt, other = begun_before(client)
    other.stage("users", client.users.UpdateUser, rename(ada.user_id, "other"))
    again = Transaction(client)
    metadata = wire.stage_metadata(again.id, 1, again.begun.deadline.ToMicroseconds(), first_attempt.id)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.users.UpdateUser, rename(ada.user_id, "again"), metadata=metadata)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        other.rollback()
        waiting.result(5)
    again.rollback()


def test_nobody_can_claim_to_be_older_than_a_later_first_attempt(client: Suite) -> None:
    tx, later = begun_before(client)
    metadata = wire.stage_metadata(tx.id, 1, tx.begun.deadline.ToMicroseconds(), later.id)
    with pytest.raises(InvalidArgument) as refused:
        client.users.UpdateUser(rename("ada", "x"), metadata=metadata)
    assert refused.value.metadata == {"key": transaction_metadata.FIRST_ATTEMPT}
