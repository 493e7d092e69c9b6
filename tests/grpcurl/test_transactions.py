"""What became of a transaction, and one of one's own: no client but grpcurl, so any language can do it."""

from __future__ import annotations

import pytest

from tests.eventually import eventually
from tests.grpcurl.tool import Grpcurl, Json

TRANSACTIONS = "transactions.v1.TransactionService"
QUERY_BRANCH = "transactions.v1.ParticipantService/QueryBranch"
UPDATE_USER = "users.v1.UserService/UpdateUser"
UPDATE_PREFERENCES = "preferences.v1.PreferencesService/UpdatePreferences"
GET_ACCOUNT = "accounts.v1.AccountService/GetAccount"
BOTH_ONCE = [{"participant": "preferences", "operationCount": 1}, {"participant": "users", "operationCount": 1}]


def test_a_committed_transaction_can_be_looked_up(grpcurl: Grpcurl, addresses: dict[str, str], created: Json) -> None:
    transaction_id = created["transactionId"]
    found = _get(grpcurl, addresses, transaction_id)
    assert found["transactionId"] == transaction_id
    assert found["state"] == "TRANSACTION_STATE_COMMITTED"
    assert _in_order(found["branches"]) == BOTH_ONCE
    assert found["decideTime"]


@pytest.mark.parametrize("participant", ["users", "preferences"])
def test_a_participant_finishes(grpcurl: Grpcurl, addresses: dict[str, str], created: Json, participant: str) -> None:
    def branch() -> Json:
        request = {"transactionId": created["transactionId"]}
        found: Json = grpcurl.call(addresses[participant], QUERY_BRANCH, request)["branch"]
        return found

    assert eventually(lambda: bool(branch()["state"] == "BRANCH_STATE_FINISHED"))
    assert branch()["outcome"] == "TRANSACTION_STATE_COMMITTED"
    assert branch()["operationCount"] == 1


def test_a_transaction_of_ones_own_commits(
    grpcurl: Grpcurl, addresses: dict[str, str], created: Json, user_id: str
) -> None:
    transaction = _begin_and_stage(grpcurl, addresses, user_id)
    get = {"userId": user_id}
    assert grpcurl.call(addresses["accounts"], GET_ACCOUNT, get)["account"] == created["account"]  # as before

    commit = {"transactionId": transaction["transactionId"], "branches": BOTH_ONCE}
    committed = grpcurl.call(addresses["accounts"], f"{TRANSACTIONS}/CommitTransaction", commit)["transaction"]
    assert committed["state"] == "TRANSACTION_STATE_COMMITTED"
    account = grpcurl.call(addresses["accounts"], GET_ACCOUNT, get)["account"]
    assert (account["user"]["displayName"], account["preferences"]["values"]) == ("Ada", {"theme": "light"})


def test_a_transaction_of_ones_own_rolls_back(
    grpcurl: Grpcurl, addresses: dict[str, str], created: Json, user_id: str
) -> None:
    transaction = _begin_and_stage(grpcurl, addresses, user_id)
    rollback = {"transactionId": transaction["transactionId"], "abortReason": "CHANGED_MY_MIND"}
    rolled_back = grpcurl.call(addresses["accounts"], f"{TRANSACTIONS}/RollbackTransaction", rollback)["transaction"]
    assert rolled_back["state"] == "TRANSACTION_STATE_ABORTED"
    assert _get(grpcurl, addresses, transaction["transactionId"])["abortReason"] == "CHANGED_MY_MIND"
    account = grpcurl.call(addresses["accounts"], GET_ACCOUNT, {"userId": user_id})["account"]
    assert account == created["account"]


def _begin_and_stage(grpcurl: Grpcurl, addresses: dict[str, str], user_id: str) -> Json:
    """A transaction that names the user Ada and makes the theme light."""
    transaction: Json = grpcurl.call(addresses["accounts"], f"{TRANSACTIONS}/BeginTransaction", {})["transaction"]
    assert transaction["state"] == "TRANSACTION_STATE_UNDECIDED"
    headers = {
        "handfast-transaction-id": transaction["transactionId"],
        "handfast-operation": "1",
        "handfast-transaction-deadline": transaction["deadline"],
    }
    user = {"user": {"userId": user_id, "displayName": "Ada"}}
    preferences = {"preferences": {"userId": user_id, "values": {"theme": "light"}}}
    assert "handfast-staged: users" in grpcurl.verbose(addresses["users"], UPDATE_USER, user, headers)
    told = grpcurl.verbose(addresses["preferences"], UPDATE_PREFERENCES, preferences, headers)
    assert "handfast-staged: preferences" in told
    return transaction


def _get(grpcurl: Grpcurl, addresses: dict[str, str], transaction_id: str) -> Json:
    request = {"transactionId": transaction_id}
    transaction: Json = grpcurl.call(addresses["accounts"], f"{TRANSACTIONS}/GetTransaction", request)["transaction"]
    return transaction


def _in_order(branches: list[Json]) -> list[Json]:
    return sorted(branches, key=lambda branch: str(branch["participant"]))
