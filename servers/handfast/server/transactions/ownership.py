"""Whose a transaction is: only who has begun it works with it (docs/atomic-commit.md, "Who may").

The id says it (`owner_tags.py`), and at a participant who has opened the branch, too. Where calls carry no identity,
whoever knows a transaction's id may do everything.
"""

from __future__ import annotations

from handfast.server.chassis.errors import PermissionDenied, reason_name
from handfast.server.chassis.security.guard import refuse
from handfast.server.transactions.core.model import Branch
from handfast.server.transactions.core.staging import is_anothers
from handfast.transactions.v1.reasons_pb2 import Reason


class NotOwner(PermissionDenied):
    reason = reason_name(Reason, Reason.REASON_NOT_OWNER)

    def __init__(self, transaction_id: str) -> None:
        message = f"Transaction {transaction_id} belongs to another caller."
        super().__init__(message, transaction_id=transaction_id)


def check_branch_owner(branch: Branch | None, caller: str, transaction_id: str) -> None:
    """For a call that stages, or reads, in the transaction of this branch. Raises NotOwner."""
    if is_anothers(branch, caller):
        refuse(NotOwner(transaction_id))
