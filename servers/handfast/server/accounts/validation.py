"""The rules that span both sides of a request; the rest each service checks on its own, when its part is staged."""

from __future__ import annotations

from handfast.accounts.v1 import accounts_pb2 as pb
from handfast.server.chassis import fields
from handfast.server.chassis.errors import Violations


def create(request: pb.CreateAccountRequest) -> None:
    with Violations.collect() as violations:
        _check_same_user(violations, request.user.user_id, request.preferences.user_id)
        if request.user.user_id:
            fields.check_id(violations, "user.user_id", request.user.user_id)
        fields.check_request_id(violations, request.request_id)


def get(request: pb.GetAccountRequest) -> None:
    with Violations.collect() as violations:
        fields.check_id(violations, "user_id", request.user_id)


def update(request: pb.UpdateUserAndPreferencesRequest) -> None:
    with Violations.collect() as violations:
        fields.check_id(violations, "user.user_id", request.user.user_id)
        _check_same_user(violations, request.user.user_id, request.preferences.user_id)
        fields.check_request_id(violations, request.request_id)


def delete(request: pb.DeleteAccountRequest) -> None:
    with Violations.collect() as violations:
        fields.check_id(violations, "user_id", request.user_id)
        fields.check_request_id(violations, request.request_id)


def _check_same_user(violations: Violations, user_id: str, preferences_user_id: str) -> None:
    if preferences_user_id and preferences_user_id != user_id:
        violations.add("preferences.user_id", "must be empty or equal user.user_id")
