"""What is there while the suite is fuzzed: users, definitions, transactions, etags. Fills in the placeholders of
`plausible.py` as a call is made, so that a call that is tried again gets what holds then.
"""

from __future__ import annotations

import contextlib
import datetime
import uuid
from collections import deque
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from handfast.client import NotFound, ServiceError, Suite
from handfast.preferences.v1.preferences_pb2 import (
    BatchGetPreferencesRequest,
    CreatePreferenceDefinitionRequest,
    GetPreferencesRequest,
    ListPreferenceDefinitionsRequest,
    PreferenceDefinition,
    Preferences,
)
from handfast.server.transactions import wire
from handfast.transactions.v1.transactions_pb2 import (
    TRANSACTION_STATE_COMMITTED,
    BeginTransactionRequest,
    CommitTransactionRequest,
    ListTransactionsRequest,
    RollbackTransactionRequest,
    Transaction,
    TransactionBranch,
)
from handfast.transactions.v1.transactions_pb2_grpc import TransactionServiceStub
from handfast.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, ListUsersRequest, UpdateUserRequest, User
from tests.fuzz import plausible
from tests.fuzz.callers import ADMIN, RUN, Caller
from tests.fuzz.calls import REQUEST_ID, Metadata
from tests.fuzz.messages import submessages

_LASTS = datetime.timedelta(seconds=0.5)  # a transaction that is left undecided; others wait for it
_BATCH = 100
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
    """`suite` is ADMIN's client; by `transactions`, others call. `owners` are the subjects of those who have begun
    transactions, by the ids of these."""

    def __init__(self, suite: Suite, transactions: TransactionServiceStub) -> None:
        self._suite, self._transactions = suite, transactions
        self.owners: dict[str, str] = {}
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

    def filled_in(self, message: Message, caller: Caller) -> Message:
        """A copy without placeholders."""
        copy = type(message)()
        copy.CopyFrom(message)
        user_id = ""
        for each in submessages(copy):
            # Its own first, as the etag is that of the user.
            for field, value in sorted(each.ListFields(), key=lambda listed: "etag" in listed[0].name):
                if field.cpp_type == FieldDescriptor.CPPTYPE_STRING and field.type != FieldDescriptor.TYPE_BYTES:
                    if field.is_repeated:
                        self._fill_in_all(value, caller)
                    else:
                        setattr(each, field.name, self._text(each, field, value, user_id, caller))
                    if field.name == "user_id":
                        user_id = each.user_id  # type: ignore[attr-defined]
        return copy

    def metadata(self, metadata: Metadata, caller: Caller) -> Metadata:
        """Without placeholders, with who calls, and with a request id."""
        filled = (
            *((key, self._plain(value, caller) if isinstance(value, str) else value) for key, value in metadata),
            *caller.metadata,
        )
        named = any(key == REQUEST_ID for key, _value in filled)
        return filled if named else (*filled, (REQUEST_ID, str(uuid.uuid4())))

    def _fill_in_all(self, texts: MutableSequence[str], caller: Caller) -> None:
        texts[:] = [self._plain(text, caller) for text in texts]

    def _text(self, message: Any, field: FieldDescriptor, text: str, user_id: str, caller: Caller) -> str:
        if text == plausible.ETAG:
            of_preferences = field.name == "preferences_etag" or isinstance(message, Preferences)
            return self._etag(getattr(message, "user_id", "") or user_id, of_preferences)
        if text == plausible.TOKEN:
            return self._token(message.DESCRIPTOR.full_name)
        return self._plain(text, caller)

    def _plain(self, text: str, caller: Caller) -> str:
        if "<" not in text:
            return text
        if text == plausible.BEGUN:
            return self._begin(caller if caller.known and RUN in caller.scopes else ADMIN).transaction_id
        if text in plausible.RECENT:
            return self._recent[plausible.RECENT.index(text) % len(self._recent)] if self._recent else text
        if text == plausible.REQUEST_ID:
            return str(uuid.uuid4())
        if text == plausible.SOON:
            return (datetime.datetime.now(datetime.UTC) + _LASTS).isoformat()
        new = uuid.uuid4().hex
        return text.replace(plausible.NEW_ID, new).replace(plausible.NEW_KEY, f"k{new}")

    def _begin(self, caller: Caller, timeout: Duration | None = None) -> Transaction:
        request = BeginTransactionRequest(timeout=timeout)
        begun = self._transactions.BeginTransaction(request, metadata=caller.metadata).transaction
        self._recent.appendleft(begun.transaction_id)
        self.owners[begun.transaction_id] = caller.subject
        return begun

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

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """While the block runs, all that is stored stays as it is, and one transaction, which calls name, stays open
        with what it has staged. Raises AssertionError."""
        victim = self._begin(ADMIN, Duration(seconds=300))
        change = UpdateUserRequest(user=User(user_id=plausible.IDS[1], display_name=victim.transaction_id))
        stage = wire.stage_metadata(victim.transaction_id, 1, victim.deadline.ToMicroseconds())
        self._suite.users.UpdateUser(change, metadata=stage)
        before = self._stored()
        try:
            yield
            after = self._stored()
            assert after == before, f"changed: {after.items() ^ before.items()}"
        except BaseException:
            rollback = RollbackTransactionRequest(transaction_id=victim.transaction_id)
            self._suite.transactions.RollbackTransaction(rollback)
            raise
        branches = [TransactionBranch(participant="users", operation_count=1)]
        commit = CommitTransactionRequest(transaction_id=victim.transaction_id, branches=branches)
        self._suite.transactions.CommitTransaction(commit)
        user = self._suite.users.GetUser(GetUserRequest(user_id=plausible.IDS[1])).user
        assert user.display_name == victim.transaction_id

    def _stored(self) -> dict[str, str]:
        """Users, preferences and definitions by their ids, and which transaction was committed last."""
        suite = self._suite
        users = {user.user_id: user for user in everything(suite.users.ListUsers, ListUsersRequest(), "users")}
        definitions = everything(
            suite.preferences.ListPreferenceDefinitions, ListPreferenceDefinitionsRequest(), "definitions"
        )
        found = {f"user {id_}": str(user) for id_, user in users.items()}
        found |= {f"definition {definition.key}": str(definition) for definition in definitions}
        for some in batches(sorted({*users, *plausible.IDS, *plausible.OTHER_IDS})):
            request = BatchGetPreferencesRequest(user_ids=some)
            for preferences in suite.preferences.BatchGetPreferences(request).preferences:
                found[f"preferences {preferences.user_id}"] = str(preferences)
        committed = ListTransactionsRequest(page_size=1, state=TRANSACTION_STATE_COMMITTED)
        for last in suite.transactions.ListTransactions(committed).transactions:
            found["the last that was committed"] = last.transaction_id
        return found


def everything(list_: Callable[[Any], Any], request: Any, field: str) -> Iterator[Any]:
    """What is listed in `field` of all pages."""
    request.page_size = _BATCH
    while True:
        page = list_(request)
        yield from getattr(page, field)
        request.page_token = page.next_page_token
        if not request.page_token:
            return


def batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))
