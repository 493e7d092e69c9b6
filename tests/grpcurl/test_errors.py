"""grpcurl decodes an error's details, so that one sees who refused, why, and under which request id."""

from __future__ import annotations

import uuid

import pytest

from tests.grpcurl.conftest import CREATE_ACCOUNT
from tests.grpcurl.tool import Grpcurl, Json
from tests.people import new_id

INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS = 3, 5, 6
GET_USER = "users.v1.UserService/GetUser"


def test_not_found(grpcurl: Grpcurl, addresses: dict[str, str]) -> None:
    user_id = new_id()
    refusal = grpcurl.refused(addresses["users"], GET_USER, {"userId": user_id}, {"x-request-id": "asked-by-grpcurl"})
    assert refusal.code == NOT_FOUND
    assert user_id in refusal.message
    assert refusal.details == {
        "ErrorInfo": {"reason": "USER_NOT_FOUND", "domain": "handfast.users", "metadata": {"user_id": user_id}},
        "RequestInfo": {"request_id": "asked-by-grpcurl"},
    }


def test_a_request_id_is_minted_where_none_is_sent(grpcurl: Grpcurl, addresses: dict[str, str]) -> None:
    refusals = [grpcurl.refused(addresses["users"], GET_USER, {"userId": new_id()}) for _ in range(2)]
    minted = {uuid.UUID(refusal.details["RequestInfo"]["request_id"]) for refusal in refusals}
    assert len(minted) == 2


def test_what_both_sides_refuse_comes_in_one_error(
    grpcurl: Grpcurl, addresses: dict[str, str], created: Json, user_id: str
) -> None:
    request = {
        "user": {"userId": user_id, "email": "at home"},
        "preferences": {"values": {"theme": "purple", "favourite_colour": "green"}},
    }
    method = "accounts.v1.AccountService/UpdateUserAndPreferences"
    refusal = grpcurl.refused(addresses["accounts"], method, request)
    assert refusal.code == INVALID_ARGUMENT
    assert refusal.details["ErrorInfo"]["reason"] == "INVALID_FIELDS"
    violations = refusal.details["BadRequest"]["field_violations"]
    assert all(violation["description"] for violation in violations)
    assert sorted((violation["field"], violation.get("reason")) for violation in violations) == [
        ("preferences.values.favourite_colour", "UNKNOWN_PREFERENCE"),
        ("preferences.values.theme", "VALUE_NOT_ALLOWED"),
        ("user.email", None),
    ]
    account = grpcurl.call(addresses["accounts"], "accounts.v1.AccountService/GetAccount", {"userId": user_id})
    assert account["account"] == created["account"]


def test_another_services_error_keeps_its_domain(grpcurl: Grpcurl, addresses: dict[str, str], created: Json) -> None:
    request = {"user": {"email": created["account"]["user"]["email"]}}
    refusal = grpcurl.refused(addresses["accounts"], CREATE_ACCOUNT, request)
    assert refusal.code == ALREADY_EXISTS
    assert refusal.details["ErrorInfo"]["domain"] == "handfast.users"
    assert refusal.details["ErrorInfo"]["reason"] == "EMAIL_TAKEN"


@pytest.mark.parametrize(
    ("server", "method", "domain"),
    [
        ("users", GET_USER, "handfast.users"),
        ("users", "transactions.v1.ParticipantService/QueryBranch", "handfast.users"),
        ("preferences", "preferences.v1.PreferencesService/GetPreferences", "handfast.preferences"),
        ("preferences", "transactions.v1.ParticipantService/QueryBranch", "handfast.preferences"),
        ("accounts", "accounts.v1.AccountService/GetAccount", "handfast.accounts"),
        ("accounts", "transactions.v1.TransactionService/GetTransaction", "handfast.transactions"),
    ],
)
def test_errors_of_every_service_have_one_shape(
    grpcurl: Grpcurl, addresses: dict[str, str], server: str, method: str, domain: str
) -> None:
    refusal = grpcurl.refused(addresses[server], method, {}, {"x-request-id": "one-shape"})
    assert refusal.code == INVALID_ARGUMENT
    assert refusal.details.keys() == {"ErrorInfo", "BadRequest", "RequestInfo"}
    assert refusal.details["ErrorInfo"]["domain"] == domain
    assert refusal.details["RequestInfo"]["request_id"] == "one-shape"
