"""Why PreferencesService refuses a call; each is a value of `handfast.preferences.v1.Reason`."""

from __future__ import annotations

from handfast.preferences.v1 import reasons_pb2 as reasons
from handfast.server.chassis.errors import Aborted, AlreadyExists, reason_name


def _reason(value: reasons.Reason.ValueType) -> str:
    return reason_name(reasons.Reason.Name(value))


# Reasons of single field violations.
UNKNOWN_PREFERENCE = _reason(reasons.REASON_UNKNOWN_PREFERENCE)
WRONG_TYPE = _reason(reasons.REASON_WRONG_TYPE)
VALUE_NOT_ALLOWED = _reason(reasons.REASON_VALUE_NOT_ALLOWED)


class PreferencesChanged(Aborted):
    reason = _reason(reasons.REASON_PREFERENCES_CHANGED)

    def __init__(self, user_id: str) -> None:
        super().__init__(
            f"The preferences of user {user_id} have changed since they were read with this etag.", user_id=user_id
        )


class DefinitionAlreadyExists(AlreadyExists):
    reason = _reason(reasons.REASON_DEFINITION_ALREADY_EXISTS)

    def __init__(self, key: str) -> None:
        super().__init__(f"There is a definition of {key} already.", key=key)
