"""The rules that span both sides of a request; the rest each service checks on its own, when its part is staged."""

from __future__ import annotations

from collections.abc import Sequence

from handfast.accounts.v1 import accounts_pb2 as pb
from handfast.server.chassis.errors import Violation, Violations
from handfast.server.chassis.requests import fields


def create(request: pb.CreateAccountRequest) -> Sequence[Violation]:
    return _spanning(request.user.user_id, request.preferences.user_id, request.request_id)


def update(request: pb.UpdateUserAndPreferencesRequest) -> Sequence[Violation]:
    return _spanning(request.user.user_id, request.preferences.user_id, request.request_id)


def delete(request: pb.DeleteAccountRequest) -> None:
    with Violations.collect() as violations:
        fields.check_id(violations, "user_id", request.user_id)
        fields.check_request_id(violations, request.request_id)


def _spanning(user_id: str, preferences_user_id: str, request_id: str) -> Sequence[Violation]:
    """Returned, not raised, so that they are told together with what the services find."""
    violations = Violations()
    if preferences_user_id and preferences_user_id != user_id:
        violations.add("preferences.user_id", "must be empty or equal user.user_id")
    fields.check_request_id(violations, request_id)
    return violations.found
