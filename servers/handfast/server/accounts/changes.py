"""The staged calls that make up each change of an account: first the user's side, then the preferences'.

The order is that of errors, too: where both sides refuse, the caller gets the user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from google.protobuf.field_mask_pb2 import FieldMask

from handfast.accounts.v1 import accounts_pb2 as pb
from handfast.client import ServiceError, Suite
from handfast.preferences.v1.preferences_pb2 import Preferences, UpdatePreferencesRequest
from handfast.preferences.v1.reasons_pb2 import Reason
from handfast.server.accounts.errors import AccountChanged
from handfast.server.chassis.errors import reason_name
from handfast.server.transactions.coordinator.staging import PlannedCall
from handfast.users.v1.users_pb2 import CreateUserRequest, DeleteUserRequest, UpdateUserRequest

PREFERENCES_CHANGED = reason_name(Reason, Reason.REASON_PREFERENCES_CHANGED)
USERS, PREFERENCES = "users", "preferences"

_USER_FIELDS = {"update_mask": "user_update_mask"}
_PREFERENCES_FIELDS = {"update_mask": "preferences_update_mask", "preferences.user_id": "user.user_id"}
_ALL_VALUES = FieldMask(paths=["values"])


def create(suite: Suite, request: pb.CreateAccountRequest, user_id: str) -> Sequence[PlannedCall]:
    create_user = CreateUserRequest(user=request.user)
    create_user.user.user_id = user_id
    return (
        PlannedCall(USERS, suite.users.CreateUser, create_user),
        _update_preferences(suite, user_id, request.preferences, _ALL_VALUES),
    )


def update(suite: Suite, request: pb.UpdateUserAndPreferencesRequest) -> Sequence[PlannedCall]:
    update_user = UpdateUserRequest(user=request.user, update_mask=request.user_update_mask)
    return (
        PlannedCall(USERS, suite.users.UpdateUser, update_user, _USER_FIELDS),
        _update_preferences(suite, request.user.user_id, request.preferences, request.preferences_update_mask),
    )


def delete(suite: Suite, request: pb.DeleteAccountRequest, read: Preferences) -> Sequence[PlannedCall]:
    """Clears the preferences only as they were `read`, so that the answer can show what was deleted."""

    def explain(error: ServiceError) -> Exception:
        unexpected = error.reason == PREFERENCES_CHANGED and not request.preferences_etag
        return AccountChanged(request.user_id) if unexpected else error

    delete_user = DeleteUserRequest(user_id=request.user_id, etag=request.user_etag)
    nothing = Preferences(etag=request.preferences_etag or read.etag)
    clear = _update_preferences(suite, request.user_id, nothing, _ALL_VALUES)
    return (PlannedCall(USERS, suite.users.DeleteUser, delete_user), replace(clear, explain=explain))


def _update_preferences(suite: Suite, user_id: str, preferences: Preferences, mask: FieldMask) -> PlannedCall:
    request = UpdatePreferencesRequest(preferences=preferences, update_mask=mask)
    request.preferences.user_id = user_id
    return PlannedCall(PREFERENCES, suite.preferences.UpdatePreferences, request, _PREFERENCES_FIELDS)
