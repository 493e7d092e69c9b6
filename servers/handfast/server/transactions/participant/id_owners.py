"""Whose the ids are that staged calls name: their tags say it, by keys that the coordinator tells (rule 14).

So nobody stages under the id of another's transaction, also where its owner has staged nothing yet, and nobody counts
as old as another's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from handfast.client.transaction_metadata import FIRST_ATTEMPT, TRANSACTION_ID
from handfast.server.chassis.call import Call
from handfast.server.chassis.security.callers import made_for, on_behalf_of
from handfast.server.chassis.security.guard import refuse
from handfast.server.transactions import wire
from handfast.server.transactions.owner_tags import OwnerTags
from handfast.server.transactions.ownership import NotOwner
from handfast.server.transactions.participant.errors import CoordinatorUnavailable

PAUSE_S = 1.0
"""For so long after an answer, the coordinator is not asked again."""


class IdOwners:
    """`ask` asks the coordinator for its keys; None where that does not answer. It is asked when the first id is to be
    checked, and again where an id is not its caller's, as keys may have changed.
    """

    def __init__(self, ask: Callable[[], Sequence[bytes] | None]) -> None:
        self._ask = ask
        self._tags: OwnerTags | None = None
        self._asked_s = float("-inf")

    def check(self, call: Call) -> None:
        """For a staged call, whose metadata is right. Refuses it with NotOwner where the transaction, or the one that
        it runs again, belongs to another caller; and with CoordinatorUnavailable while that is not known.
        """
        if call.caller is None:
            return
        owners = _owners(call, call.caller)
        # Usually they are the same.
        for id_ in {str(call.metadata[key]) for key in (TRANSACTION_ID, FIRST_ATTEMPT) if key in call.metadata}:
            match self._belongs_to(id_, *owners):
                case None:
                    message = f"The coordinator did not say whose transaction {id_} is."
                    refuse(CoordinatorUnavailable(message, transaction_id=id_))
                case False:
                    refuse(NotOwner(id_))

    def _belongs_to(self, transaction_id: str, *owners: str) -> bool | None:
        """Whether one of these owns it; None where that is not known."""
        tags = self._tags
        if tags is not None and tags.belongs_to(transaction_id, *owners):
            return True
        if time.monotonic() > self._asked_s + PAUSE_S and (keys := self._ask()) is not None:
            self._tags = tags = OwnerTags(keys)
            self._asked_s = time.monotonic()
        if tags is None:
            return None
        # Without a key the coordinator does not know its callers, and ids do not tell.
        return not tags.keys or tags.belongs_to(transaction_id, *owners)


def _owners(call: Call, caller: str) -> tuple[str, ...]:
    """As whose the ids of a call's transactions may be tagged: its caller's. The coordinator tags those of account
    calls on its own behalf, under a name that leaves open who it is.
    """
    identity = call.identity
    if identity is None or wire.FINISH not in identity.scopes or (named := made_for(call, identity)) is None:
        return (caller,)
    return (caller, on_behalf_of(named))
