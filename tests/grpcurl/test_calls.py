"""Each service can be called with nothing but grpcurl, values and field masks included."""

from __future__ import annotations

import json

from tests.grpcurl.conftest import CREATE_ACCOUNT
from tests.grpcurl.tool import Grpcurl, Json
from tests.people import new_email, new_id
from tests.project.commands import BIN, succeed

GET_ACCOUNT = "accounts.v1.AccountService/GetAccount"
GET_USER = "users.v1.UserService/GetUser"
GET_PREFERENCES = "preferences.v1.PreferencesService/GetPreferences"


def test_create_account(grpcurl: Grpcurl, addresses: dict[str, str]) -> None:
    user_id, email = new_id(), new_email()
    values = {"theme": "dark", "items_per_page": 50, "product_news": True, "muted_topics": ["a", "b"]}
    request = {"user": {"userId": user_id, "email": email}, "preferences": {"values": values}}
    created = grpcurl.call(addresses["accounts"], CREATE_ACCOUNT, request)
    user = grpcurl.call(addresses["users"], GET_USER, {"userId": user_id})
    preferences = grpcurl.call(addresses["preferences"], GET_PREFERENCES, {"userId": user_id})
    assert created["account"] == {"user": user["user"], "preferences": preferences["preferences"]}
    assert (user["user"]["email"], preferences["preferences"]["values"]) == (email, values)
    assert user["lastTransactionId"] == preferences["lastTransactionId"] == created["transactionId"]


def test_get_account(grpcurl: Grpcurl, addresses: dict[str, str], created: Json, user_id: str) -> None:
    request: Json = {"userId": user_id}
    account = grpcurl.call(addresses["accounts"], GET_ACCOUNT, request)["account"]
    assert account == created["account"]
    account = grpcurl.call(addresses["accounts"], GET_ACCOUNT, {**request, "includeDefaults": True})["account"]
    defaults = account["preferences"].pop("defaults")
    assert account == created["account"]
    assert defaults["items_per_page"] == 25
    assert "theme" not in defaults  # it is set


def test_update_both_sides(grpcurl: Grpcurl, addresses: dict[str, str], user_id: str) -> None:
    request = {
        "user": {"userId": user_id, "displayName": "Ada", "locale": "pt-BR"},
        "userUpdateMask": {"paths": ["display_name"]},
        "preferences": {"values": {"density": "compact", "time_format": "12h"}},
        "preferencesUpdateMask": {"paths": ["values.density", "values.theme"]},
    }
    grpcurl.call(addresses["accounts"], "accounts.v1.AccountService/UpdateUserAndPreferences", request)
    account = grpcurl.call(addresses["accounts"], GET_ACCOUNT, {"userId": user_id})["account"]
    assert account["user"]["displayName"] == "Ada"
    assert "locale" not in account["user"]  # not in the mask
    assert account["preferences"]["values"] == {"density": "compact"}  # theme was in the mask, and is removed


def test_delete_account(grpcurl: Grpcurl, addresses: dict[str, str], created: Json, user_id: str) -> None:
    request = {"userId": user_id, "userEtag": created["account"]["user"]["etag"]}
    deleted = grpcurl.call(addresses["accounts"], "accounts.v1.AccountService/DeleteAccount", request)
    assert deleted["account"] == created["account"]
    assert grpcurl.refused(addresses["users"], GET_USER, {"userId": user_id}).code == 5
    preferences = grpcurl.call(addresses["preferences"], GET_PREFERENCES, {"userId": user_id})["preferences"]
    assert "values" not in preferences


def test_look_up_user(grpcurl: Grpcurl, addresses: dict[str, str], created: Json) -> None:
    user = created["account"]["user"]
    found = grpcurl.call(addresses["users"], "users.v1.UserService/LookupUser", {"email": user["email"].upper()})
    assert found == {"user": user}


def test_update_preferences(grpcurl: Grpcurl, addresses: dict[str, str], user_id: str) -> None:
    request = {
        "preferences": {"userId": user_id, "values": {"theme": "light", "density": "compact"}},
        "updateMask": {"paths": ["values.theme"]},
    }
    method = "preferences.v1.PreferencesService/UpdatePreferences"
    updated = grpcurl.call(addresses["preferences"], method, request)["preferences"]
    assert updated["values"] == {"theme": "light"}


def test_list_definitions(grpcurl: Grpcurl, addresses: dict[str, str]) -> None:
    method = "preferences.v1.PreferencesService/ListPreferenceDefinitions"
    keys: list[str] = []
    page: Json = {"nextPageToken": ""}
    while "nextPageToken" in page:
        page = grpcurl.call(addresses["preferences"], method, {"pageSize": 3, "pageToken": page["nextPageToken"]})
        keys += [definition["key"] for definition in page["definitions"]]
    assert keys == sorted(keys)
    assert {"theme", "items_per_page", "email_notifications", "muted_topics"} <= set(keys)


def test_a_field_mask_may_have_its_standard_json_form(addresses: dict[str, str], user_id: str) -> None:
    # One string in camel case. grpcurl does not take it (https://github.com/fullstorydev/grpcurl/issues/393), buf does.
    request = {
        "user": {"userId": user_id, "displayName": "Ada"},
        "userUpdateMask": "displayName",
        "preferences": {"values": {"items_per_page": 100}},
        "preferencesUpdateMask": "values.itemsPerPage,values.theme",
    }
    buf_curl = (BIN / "buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", json.dumps(request))
    method = "handfast.accounts.v1.AccountService/UpdateUserAndPreferences"
    account = json.loads(succeed((*buf_curl, f"http://{addresses['accounts']}/{method}")))["account"]
    assert account["user"]["displayName"] == "Ada"
    assert account["preferences"]["values"] == {"items_per_page": 100}
