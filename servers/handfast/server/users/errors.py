"""The errors of UserService. The reason of each is a value of `handfast.users.v1.Reason`."""

from __future__ import annotations

from handfast.server.chassis.errors import Aborted, AlreadyExists, NotFound, reason_name
from handfast.users.v1.reasons_pb2 import Reason


class UserNotFound(NotFound):
    reason = reason_name(Reason, Reason.REASON_USER_NOT_FOUND)

    def __init__(self, user_id: str) -> None:
        super().__init__(f"There is no user {user_id}.", user_id=user_id)


class NoUserHasEmail(NotFound):
    reason = reason_name(Reason, Reason.REASON_USER_NOT_FOUND)

    def __init__(self) -> None:
        super().__init__("No user has this email.")


class UserAlreadyExists(AlreadyExists):
    reason = reason_name(Reason, Reason.REASON_USER_ALREADY_EXISTS)

    def __init__(self, user_id: str) -> None:
        super().__init__(f"There is a user {user_id} already.", user_id=user_id)


class EmailTaken(AlreadyExists):
    reason = reason_name(Reason, Reason.REASON_EMAIL_TAKEN)

    def __init__(self) -> None:
        super().__init__("Another user has the value of user.email.", field="user.email")


class UserChanged(Aborted):
    reason = reason_name(Reason, Reason.REASON_USER_CHANGED)

    def __init__(self, user_id: str) -> None:
        super().__init__(f"User {user_id} has changed since it was read with this etag.", user_id=user_id)
