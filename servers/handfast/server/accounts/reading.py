"""Reads both sides of an account without tearing it: of a change that spans both, it shows both sides or neither.

Each side says which transaction was applied to it last. The same on both: one round was enough, as with RAMP (Bailis
et al., 2014). Else it reads until two rounds in a row see the same transactions: then none was applied to either side
between the rounds, so what the second saw differs from a state of both sides by plain writes at most. Plain writes make
nobody read again. `create_time` tells a user from an earlier one of the same id.
"""

from __future__ import annotations

from handfast.accounts.v1.accounts_pb2 import Account
from handfast.client import Suite
from handfast.client.begun_call import begin
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest
from handfast.server.accounts.errors import AccountInMotion
from handfast.server.chassis.cancellation import wait_for_all
from handfast.users.v1.users_pb2 import GetUserRequest

ROUNDS = 20


def read_account(suite: Suite, user_id: str, *, include_defaults: bool) -> Account:
    """Raises NotFound, as the users service puts it, and AccountInMotion where it changes without pause."""
    get_user = GetUserRequest(user_id=user_id)
    get_preferences = GetPreferencesRequest(user_id=user_id, include_defaults=include_defaults)
    before = None
    for _ in range(ROUNDS):
        user_call = begin(suite.users.GetUser, get_user)
        preferences_call = begin(suite.preferences.GetPreferences, get_preferences)
        user, preferences = wait_for_all(user_call, preferences_call)
        # That no transaction was ever applied to either says nothing: one may have been deleted and created again.
        same = user.last_transaction_id and user.last_transaction_id == preferences.last_transaction_id
        applied = (user.last_transaction_id, user.user.create_time, preferences.last_transaction_id)
        if same or applied == before:
            return Account(user=user.user, preferences=preferences.preferences)
        before = applied
    raise AccountInMotion(user_id)
