"""The errors of PreferencesService. The reason of each is a value of `handfast.preferences.v1.Reason`."""

from __future__ import annotations

from handfast.preferences.v1.reasons_pb2 import Reason
from handfast.server.chassis.errors import Aborted, AlreadyExists, FailedPrecondition, reason_name

# Reasons of single field violations.
UNKNOWN_PREFERENCE = reason_name(Reason, Reason.REASON_UNKNOWN_PREFERENCE)
WRONG_TYPE = reason_name(Reason, Reason.REASON_WRONG_TYPE)
VALUE_NOT_ALLOWED = reason_name(Reason, Reason.REASON_VALUE_NOT_ALLOWED)


class PreferencesChanged(Aborted):
    reason = reason_name(Reason, Reason.REASON_PREFERENCES_CHANGED)

    def __init__(self, user_id: str) -> None:
        super().__init__(
            f"The preferences of user {user_id} have changed since they were read with this etag.", user_id=user_id
        )


class DefinitionAlreadyExists(AlreadyExists):
    reason = reason_name(Reason, Reason.REASON_DEFINITION_ALREADY_EXISTS)

    def __init__(self, key: str) -> None:
        super().__init__(f"There is a definition of {key} already.", key=key)


class DefaultsTooLarge(FailedPrecondition):
    reason = reason_name(Reason, Reason.REASON_DEFAULTS_TOO_LARGE)

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"With this one the defaults of all definitions would take {size} bytes; up to {limit} are taken.",
            size=size,
            limit=limit,
        )
