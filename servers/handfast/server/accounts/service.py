"""AccountService: checks what spans both sides, has the coordinator run the change, answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import grpc

from handfast.accounts.v1 import accounts_pb2 as pb
from handfast.accounts.v1.accounts_pb2_grpc import AccountServiceServicer
from handfast.client import NotFound, Suite
from handfast.client.begun_call import begin
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest
from handfast.server.accounts import changes
from handfast.server.accounts.reading import read_account
from handfast.server.chassis.cancellation import wait_for
from handfast.server.chassis.data.idempotency import Identified
from handfast.server.chassis.errors import AnswerErased, Violation, Violations
from handfast.server.chassis.ids import new_id
from handfast.server.chassis.requests import fields
from handfast.server.transactions.coordinator.coordinator import Coordinator
from handfast.server.transactions.coordinator.staging import PlannedCall

Changed = TypeVar("Changed", pb.CreateAccountResponse, pb.UpdateUserAndPreferencesResponse)


class AccountServicer(AccountServiceServicer):
    def __init__(self, suite: Suite, coordinator: Coordinator) -> None:
        self._suite, self._coordinator = suite, coordinator

    def CreateAccount(
        self, request: pb.CreateAccountRequest, context: grpc.ServicerContext
    ) -> pb.CreateAccountResponse:
        faults = _faults(request)
        user_id = request.user.user_id or new_id()
        return self._coordinator.run(
            request,
            _lock_of(user_id),
            lambda: changes.create(self._suite, request, user_id),
            lambda replies, id_: pb.CreateAccountResponse(account=_account(replies), transaction_id=id_),
            pb.CreateAccountResponse,
            partial(self._rebuilt, request),
            faults,
        )

    def GetAccount(self, request: pb.GetAccountRequest, context: grpc.ServicerContext) -> pb.GetAccountResponse:
        fields.require_id("user_id", request.user_id)
        account = read_account(self._suite, request.user_id, include_defaults=request.include_defaults)
        return pb.GetAccountResponse(account=account)

    def UpdateUserAndPreferences(
        self, request: pb.UpdateUserAndPreferencesRequest, context: grpc.ServicerContext
    ) -> pb.UpdateUserAndPreferencesResponse:
        faults = _faults(request)
        return self._coordinator.run(
            request,
            _lock_of(request.user.user_id),
            lambda: changes.update(self._suite, request),
            lambda replies, id_: pb.UpdateUserAndPreferencesResponse(account=_account(replies), transaction_id=id_),
            pb.UpdateUserAndPreferencesResponse,
            partial(self._rebuilt, request),
            faults,
        )

    def DeleteAccount(
        self, request: pb.DeleteAccountRequest, context: grpc.ServicerContext
    ) -> pb.DeleteAccountResponse:
        with Violations.collect() as violations:
            fields.check_id(violations, "user_id", request.user_id)
            fields.check_request_id(violations, request.request_id)
        deleted = pb.Account()

        def plan() -> Sequence[PlannedCall]:
            get_preferences = GetPreferencesRequest(user_id=request.user_id)
            read = wait_for(begin(self._suite.preferences.GetPreferences, get_preferences))
            deleted.preferences.CopyFrom(read.preferences)
            return changes.delete(self._suite, request, read.preferences)

        def compose(replies: Sequence[Any], transaction_id: str) -> pb.DeleteAccountResponse:
            deleted.user.CopyFrom(replies[0].user)
            return pb.DeleteAccountResponse(account=deleted, transaction_id=transaction_id)

        return self._coordinator.run(
            request,
            _lock_of(request.user_id),
            plan,
            compose,
            pb.DeleteAccountResponse,
            lambda stored: stored,  # what was personal is deleted
        )

    def _rebuilt(self, request: Identified, stored: Changed) -> Changed:
        """What a repeat of a change is answered: the account as it is now (AIP-155, stale success responses). Its
        personal data is not stored here, where nobody would hear that the user was deleted. Raises AnswerErased where
        the user is gone since.
        """
        user = stored.account.user
        try:
            account = read_account(self._suite, user.user_id, include_defaults=False)
        except NotFound:
            raise AnswerErased(request.request_id) from None
        if account.user.create_time != user.create_time:  # another one, of the same id
            raise AnswerErased(request.request_id)
        return type(stored)(account=account, transaction_id=stored.transaction_id)


def _faults(request: pb.CreateAccountRequest | pb.UpdateUserAndPreferencesRequest) -> Sequence[Violation]:
    """What breaks a rule that spans both sides; all others each service checks when its part is staged. They are
    returned, so that the caller gets them together with what the services find.
    """
    violations = Violations()
    if request.preferences.user_id not in ("", request.user.user_id):
        violations.add("preferences.user_id", "must be empty or equal user.user_id")
    fields.check_request_id(violations, request.request_id)
    return violations


def _lock_of(user_id: str) -> str:
    """The resource whose changes run one after the other; empty where it cannot be an account."""
    return user_id if fields.is_id(user_id) else ""


def _account(replies: Sequence[Any]) -> pb.Account:
    user, preferences = replies
    return pb.Account(user=user.user, preferences=preferences.preferences)
