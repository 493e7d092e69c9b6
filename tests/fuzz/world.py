"""What is there while the suite is fuzzed: users, definitions, transactions, etags. Fills in the placeholders of
`plausible.py` as a call is made, so that a call that is tried again gets what holds then.
"""

from __future__ import annotations

import contextlib
import datetime
import uuid
from collections import deque
from collections.abc import Callable, MutableSequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from handfast.client import NotFound, ServiceError, Suite
from handfast.preferences.v1.preferences_pb2 import (
    CreatePreferenceDefinitionRequest,
    GetPreferencesRequest,
    ListPreferenceDefinitionsRequest,
    PreferenceDefinition,
    Preferences,
)
from handfast.transactions.v1.transactions_pb2 import (
    BeginTransactionRequest,
    ListTransactionsRequest,
    RollbackTransactionRequest,
)
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, ListUsersRequest, User
from tests.fuzz import plausible
from tests.fuzz.calls import REQUEST_ID, Metadata
from tests.fuzz.messages import submessages

_LASTS = datetime.timedelta(seconds=0.5)  # a transaction that is left undecided; others wait for it
_LISTS: dict[str, Callable[[Suite], Any]] = {
    ListUsersRequest.DESCRIPTOR.full_name: lambda suite: suite.users.ListUsers(ListUsersRequest(page_size=1)),
    ListPreferenceDefinitionsRequest.DESCRIPTOR.full_name: lambda suite: suite.preferences.ListPreferenceDefinitions(
        ListPreferenceDefinitionsRequest(page_size=1)
    ),
    ListTransactionsRequest.DESCRIPTOR.full_name: lambda suite: suite.transactions.ListTransactions(
        ListTransactionsRequest(page_size=1)
    ),
}
"""A page of each list, by the type of its request."""


class World:
    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._recent: deque[str] = deque(maxlen=len(plausible.RECENT))
        for key, kind in plausible.DEFINED.items():
            definition = PreferenceDefinition(key=key, type=kind)
            suite.preferences.CreatePreferenceDefinition(CreatePreferenceDefinitionRequest(definition=definition))
        self.restore()

    def restore(self) -> None:
        """Creates the users who were deleted."""
        for user_id in plausible.IDS:
            try:
                self._suite.users.GetUser(GetUserRequest(user_id=user_id))
            except NotFound:
                user = User(user_id=user_id, email=plausible.email_of(str(uuid.uuid4())))
                with contextlib.suppress(ServiceError):  # what another call staged stands in the way
                    self._suite.users.CreateUser(CreateUserRequest(user=user))

    def filled_in(self, message: Message) -> Message:
        """A copy without placeholders."""
        copy = type(message)()
        copy.CopyFrom(message)
        user_id = ""
        for each in submessages(copy):
            # Its own first, as the etag is that of the user.
            for field, value in sorted(each.ListFields(), key=lambda listed: "etag" in listed[0].name):
                if field.cpp_type == FieldDescriptor.CPPTYPE_STRING and field.type != FieldDescriptor.TYPE_BYTES:
                    if field.is_repeated:
                        self._fill_in_all(value)
                    else:
                        setattr(each, field.name, self._text(each, field, value, user_id))
                    if field.name == "user_id":
                        user_id = each.user_id  # type: ignore[attr-defined]
        return copy

    def metadata(self, metadata: Metadata) -> Metadata:
        """Without placeholders, and with a request id."""
        filled = tuple((key, self._plain(value) if isinstance(value, str) else value) for key, value in metadata)
        named = any(key == REQUEST_ID for key, _value in filled)
        return filled if named else (*filled, (REQUEST_ID, str(uuid.uuid4())))

    def _fill_in_all(self, texts: MutableSequence[str]) -> None:
        texts[:] = [self._plain(text) for text in texts]

    def _text(self, message: Any, field: FieldDescriptor, text: str, user_id: str) -> str:
        if text == plausible.ETAG:
            of_preferences = field.name == "preferences_etag" or isinstance(message, Preferences)
            return self._etag(getattr(message, "user_id", "") or user_id, of_preferences)
        if text == plausible.TOKEN:
            return self._token(message.DESCRIPTOR.full_name)
        return self._plain(text)

    def _plain(self, text: str) -> str:
        if "<" not in text:
            return text
        if text == plausible.BEGUN:
            begun = self._suite.transactions.BeginTransaction(BeginTransactionRequest())
            self._recent.appendleft(begun.transaction.transaction_id)
            return self._recent[0]
        if text in plausible.RECENT:
            return self._recent[plausible.RECENT.index(text) % len(self._recent)] if self._recent else text
        if text == plausible.REQUEST_ID:
            return str(uuid.uuid4())
        if text == plausible.SOON:
            return (datetime.datetime.now(datetime.UTC) + _LASTS).isoformat()
        new = uuid.uuid4().hex
        return text.replace(plausible.NEW_ID, new).replace(plausible.NEW_KEY, f"k{new}")

    def _etag(self, user_id: str, of_preferences: bool) -> str:
        try:
            if of_preferences:
                request = GetPreferencesRequest(user_id=user_id)
                return self._suite.preferences.GetPreferences(request).preferences.etag
            return self._suite.users.GetUser(GetUserRequest(user_id=user_id)).user.etag
        except ServiceError:  # no such user, or no user id at all
            return "0"

    def _token(self, request_type: str) -> str:
        page = _LISTS.get(request_type)
        return str(page(self._suite).next_page_token) if page else ""

    def release(self) -> None:
        """Rolls back what may still be undecided."""
        for transaction_id in self._recent:
            try:
                self._suite.transactions.RollbackTransaction(RollbackTransactionRequest(transaction_id=transaction_id))
            except ServiceError:  # it is decided
                continue
