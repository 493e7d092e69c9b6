"""Why AccountService refuses a call; each is a value of `handfast.accounts.v1.Reason`."""

from __future__ import annotations

from handfast.accounts.v1.reasons_pb2 import Reason
from handfast.server.chassis.errors import Aborted, reason_name


class AccountInMotion(Aborted):
    reason = reason_name(Reason, Reason.REASON_ACCOUNT_IN_MOTION)
    retry_after = 0.05

    def __init__(self, user_id: str) -> None:
        super().__init__(f"The account of user {user_id} kept changing while it was read.", user_id=user_id)


class AccountChanged(Aborted):
    reason = reason_name(Reason, Reason.REASON_ACCOUNT_CHANGED)
    retry_after = 0.05

    def __init__(self, user_id: str) -> None:
        super().__init__(f"The preferences of user {user_id} changed during the deletion.", user_id=user_id)
