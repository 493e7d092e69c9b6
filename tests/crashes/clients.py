"""Clients that read and write at random, and note what they saw."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from google.protobuf.field_mask_pb2 import FieldMask

from handfast.accounts.v1.accounts_pb2 import (
    CreateAccountRequest,
    DeleteAccountRequest,
    GetAccountRequest,
    UpdateUserAndPreferencesRequest,
)
from handfast.client import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServiceError,
    Suite,
)
from handfast.preferences.v1.preferences_pb2 import (
    BatchGetPreferencesRequest,
    GetPreferencesRequest,
    Preferences,
    UpdatePreferencesRequest,
)
from handfast.users.v1.users_pb2 import (
    BatchGetUsersRequest,
    GetUserRequest,
    ListUsersRequest,
    LookupUserRequest,
    UpdateUserRequest,
    User,
)
from tests.crashes.history import Event
from tests.crashes.transactions import TIMEOUT, Refused, Transactions
from tests.crashes.worker import Worker
from tests.crashes.world import GONE, LIFE, PAIRS, Seen, World, text
from tests.serializability.history import Outcome, Read, Write
from tests.transactions.calls import Transaction

TRANSACTION_TIMEOUT = 3
"""Seconds that a transaction made by hand gets: those that are abandoned keep their rows for so long."""
COMMIT_PATIENCE = 6.0
"""Seconds for which a commit without an answer is repeated."""
REFUSALS = (Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound)
"""What says that nothing was changed; any other failure leaves that open."""


NOTHING: Mapping[str, str] = MappingProxyType({})


class Client(Worker):
    """Works until `stopping` is set. `history` is shared by all clients. Each transaction has `timeout` seconds."""

    def __init__(
        self,
        name: str,
        suite: Suite,
        world: World,
        history: list[Event],
        stopping: threading.Event,
        seed: str,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(name)
        self._suite, self._world, self._history, self._stopping = suite, world, history, stopping
        self._random = random.Random(f"{seed} {name}")
        self._transactions = Transactions(suite, world, self._random, self._mark, timeout)
        self._count = 0
        self._alive: list[str] = []
        self._spare_email = ""

    def work(self) -> None:
        operations: dict[Callable[[], None], int] = {
            self._update_account: 6,
            self._update_account_by_hand: 3,
            self._update_user: 4,
            self._update_preferences: 4,
            self._swap_emails: 4,
            self._create_account: 2,
            self._delete_account: 2,
            self._get_account: 8,
            self._get_user: 5,
            self._get_preferences: 5,
            self._look_up: 5,
            self._list: 2,
            self._get_batch: 2,
            self._get_life: 4,
            self._transact: 12,
        }
        while not self._stopping.is_set():
            self._random.choices(list(operations), list(operations.values()))[0]()

    def _mark(self) -> str:
        """A value that nobody else writes."""
        self._count += 1
        return f"{self.name}-{self._count}"

    def _note(
        self,
        operation: str,
        call: Callable[[Seen], object],
        writes: Mapping[str, str] = NOTHING,
        *,
        replaces: Sequence[str] = (),
        replaced: Mapping[str, str] = NOTHING,
        apart: bool = False,
    ) -> Event:
        """Runs one operation and adds it to the history. `replaced` is what `writes` write over; what the operation
        sees comes after these.
        """
        seen, note, outcome = Seen(), "", Outcome.COMMITTED
        began = time.monotonic()
        try:
            call(seen)
        except REFUSALS as error:
            outcome, note = Outcome.ABORTED, error.reason
        except Refused as error:
            outcome, note = Outcome.ABORTED, str(error)
        except ServiceError as error:
            outcome, note = Outcome.UNKNOWN, f"{error.status.name} {error.reason}"
        except AssertionError as error:
            outcome = Outcome.UNKNOWN
            seen.faults.append(f"the trailer of a staged call is missing: {error}")
        ended = time.monotonic()
        event = Event(
            f"{self.name} {operation}",
            began,
            ended,
            outcome,
            (
                *itertools.starmap(Read, replaced.items()),
                *itertools.starmap(Write, writes.items()),
                *seen.operations,
            ),
            apart=apart,
            etags=seen.etags,
            replaces=replaces,
            faults=tuple(seen.faults),
            note=note,
        )
        self._history.append(event)
        return event

    def read_all(self) -> None:
        """Reads every register once."""
        for user_id in (*self._world.ids, *self._world.tried_ids):
            for see in (self._see_user, self._see_preferences):
                self._note("last look", functools.partial(see, user_id=user_id))
        for user_id in self._world.ids:
            self._look_up(self._world.email(user_id, swapped=False))

    # Writes to both sides

    def _update_account(self) -> None:
        user_id, mark = self._random.choice(self._world.ids), self._mark()
        user, preferences = User(user_id=user_id, labels={"joint": mark}), Preferences(values={"joint": text(mark)})
        replaced = {}
        if self._random.random() < 0.3:  # only if nobody changes it meanwhile
            try:
                account = self._suite.accounts.GetAccount(GetAccountRequest(user_id=user_id)).account
            except ServiceError:
                return
            user.etag, preferences.etag = account.user.etag, account.preferences.etag
            replaced[f"joint/{user_id}"] = account.user.labels["joint"]
        request = UpdateUserAndPreferencesRequest(
            user=user,
            user_update_mask=FieldMask(paths=["labels.joint"]),
            preferences=preferences,
            preferences_update_mask=FieldMask(paths=["values.joint"]),
        )

        def call(seen: Seen) -> None:
            account = self._suite.accounts.UpdateUserAndPreferences(request).account
            self._world.see_account(seen, account)

        replaces = _etags(user.etag, preferences.etag)
        self._note("update account", call, {f"joint/{user_id}": mark}, replaces=replaces, replaced=replaced)

    def _update_account_by_hand(self) -> None:
        user_id, mark, end = self._random.choice(self._world.ids), self._mark(), self._random.random()
        user = User(user_id=user_id, labels={"joint": mark})
        preferences = Preferences(user_id=user_id, values={"joint": text(mark)})

        def call(seen: Seen) -> None:
            with _Rollback(Transaction(self._suite, TRANSACTION_TIMEOUT)) as transaction:
                self._stage_user(transaction, user, "labels.joint")
                update = UpdatePreferencesRequest(
                    preferences=preferences, update_mask=FieldMask(paths=["values.joint"])
                )
                transaction.stage("preferences", self._suite.preferences.UpdatePreferences, update)
                if end < 0.15:
                    raise Refused("rolled back")
                if end > 0.2:
                    _commit(transaction)
                    return
            raise Refused("abandoned")

        self._note("by hand", call, {f"joint/{user_id}": mark})

    def _swap_emails(self) -> None:
        """Both users of a pair take the other's email, by way of a spare one: no value has two holders in between."""
        number = self._random.randrange(PAIRS)
        one, other = self._world.pair(number)
        try:
            users = [self._suite.users.GetUser(GetUserRequest(user_id=id_)).user for id_ in (one, other)]
        except ServiceError:
            return
        swapped = users[0].labels["swap"].endswith("/0")
        mark = f"{self._mark()}/{int(swapped)}"
        label = {"swap": mark}
        spare = User(user_id=one, email=f"spare-{mark.replace('/', '-')}@example.com", etag=users[0].etag)
        self._world.tried(spare.email)
        second = User(user_id=other, email=users[0].email, labels=label, etag=users[1].etag)
        third = User(user_id=one, email=users[1].email, labels=label)

        def call(seen: Seen) -> None:
            with _Rollback(Transaction(self._suite, TRANSACTION_TIMEOUT)) as transaction:
                self._stage_user(transaction, spare, "email")
                self._stage_user(transaction, second, "email", "labels.swap")
                self._stage_user(transaction, third, "email", "labels.swap")
                _commit(transaction)

        register, etags = f"swap/{number}", _etags(*(user.etag for user in users))
        replaced = {register: users[0].labels["swap"]}
        self._note("swap emails", call, {register: mark}, replaces=etags, replaced=replaced)

    def _stage_user(self, transaction: Transaction, user: User, *paths: str) -> None:
        request = UpdateUserRequest(user=user, update_mask=FieldMask(paths=paths))
        transaction.stage("users", self._suite.users.UpdateUser, request)

    def _create_account(self) -> None:
        user_id = mark = f"{LIFE}{self._mark()}"
        email = self._spare_email or f"{user_id}@example.com"
        free, self._spare_email = bool(self._spare_email), ""
        user = User(user_id=user_id, email=email, labels={"life": mark})
        self._world.tried(email, user_id)
        request = CreateAccountRequest(user=user, preferences=Preferences(values={"life": text(mark)}))

        def call(seen: Seen) -> None:
            try:
                self._world.see_account(seen, self._suite.accounts.CreateAccount(request).account)
            except AlreadyExists as error:
                seen.faults.append(f"{error.reason}, though the account is new and its email was given up: {free}")
                raise

        if self._note("create account", call, {f"life/{user_id}": mark}).outcome is Outcome.COMMITTED:
            self._alive.append(user_id)
            self._world.born(user_id)

    def _delete_account(self) -> None:
        if not self._alive:
            return
        user_id = self._alive.pop(self._random.randrange(len(self._alive)))
        email = ""

        def call(seen: Seen) -> None:
            nonlocal email
            request = DeleteAccountRequest(user_id=user_id)
            email = self._suite.accounts.DeleteAccount(request).account.user.email

        if self._note("delete account", call, {f"life/{user_id}": GONE}).outcome is Outcome.COMMITTED:
            self._spare_email = email

    # Writes to one side

    def _update_user(self) -> None:
        user_id, mark = self._random.choice(self._world.ids), self._mark()
        user, replaced = User(user_id=user_id, display_name=mark), {}
        if self._random.random() < 0.3:
            try:
                before = self._suite.users.GetUser(GetUserRequest(user_id=user_id)).user
            except ServiceError:
                return
            user.etag, replaced[f"user/{user_id}"] = before.etag, before.display_name

        def call(seen: Seen) -> None:
            request = UpdateUserRequest(user=user, update_mask=FieldMask(paths=["display_name"]))
            self._world.see_user(seen, self._suite.users.UpdateUser(request).user)

        self._note("update user", call, {f"user/{user_id}": mark}, replaces=_etags(user.etag), replaced=replaced)

    def _update_preferences(self) -> None:
        user_id, mark = self._random.choice(self._world.ids), self._mark()
        preferences = Preferences(user_id=user_id, values={"own": text(mark)})

        def call(seen: Seen) -> None:
            request = UpdatePreferencesRequest(preferences=preferences, update_mask=FieldMask(paths=["values.own"]))
            self._world.see_preferences(seen, self._suite.preferences.UpdatePreferences(request).preferences)

        self._note("update preferences", call, {f"own/{user_id}": mark})

    # Transactions

    def _transact(self) -> None:
        transactions = self._transactions
        kind = self._random.choice((transactions.read, transactions.write, transactions.rerun))
        self._note(f"transaction: {kind.__name__}", kind)

    # Reads

    def _get_account(self) -> None:
        self._note("get account", lambda seen: self._see_account(seen, self._random.choice(self._world.ids)))

    def _get_user(self) -> None:
        self._note("get user", lambda seen: self._see_user(seen, self._random.choice(self._world.ids)))

    def _get_preferences(self) -> None:
        self._note("get preferences", lambda seen: self._see_preferences(seen, self._random.choice(self._world.ids)))

    def _get_life(self) -> None:
        lives = self._world.lives()[-30:]
        if lives:
            see = self._random.choice((self._see_account, self._see_user, self._see_preferences))
            user_id = self._random.choice(lives)
            self._note("get life", lambda seen: see(seen, user_id))

    def _see_account(self, seen: Seen, user_id: str) -> None:
        try:
            self._world.see_account(seen, self._suite.accounts.GetAccount(GetAccountRequest(user_id=user_id)).account)
        except NotFound:
            self._see_nobody(seen, user_id)

    def _see_user(self, seen: Seen, user_id: str) -> None:
        try:
            self._world.see_user(seen, self._suite.users.GetUser(GetUserRequest(user_id=user_id)).user)
        except NotFound:
            self._see_nobody(seen, user_id)

    def _see_nobody(self, seen: Seen, user_id: str) -> None:
        if user_id in self._world.ids:
            seen.faults.append(f"{user_id} is not found")
        else:
            seen.read(f"life/{user_id}", self._world.not_there(user_id))

    def _see_preferences(self, seen: Seen, user_id: str) -> None:
        request = GetPreferencesRequest(user_id=user_id)
        self._world.see_preferences(seen, self._suite.preferences.GetPreferences(request).preferences)

    def _look_up(self, email: str = "") -> None:
        email = email or self._world.email(self._random.choice(self._world.ids), swapped=False)

        def call(seen: Seen) -> None:
            try:
                user = self._suite.users.LookupUser(LookupUserRequest(email=email)).user
            except NotFound:
                seen.faults.append(f"nobody has {email}")
                return
            if user.email != email:
                seen.faults.append(f"the user with {email} has {user.email}")
            self._world.see_user(seen, user)

        self._note("look up", call)

    def _list(self) -> None:
        """Each row as it was at some moment of the call, but not all at the same."""

        def call(seen: Seen) -> None:
            users = self._suite.users.ListUsers(ListUsersRequest(page_size=1000)).users
            for user in users:
                self._world.see_user(seen, user)
            for missing in set(self._world.ids) - {user.user_id for user in users}:
                seen.faults.append(f"{missing} is not in the list")

        self._note("list", call, apart=True)

    def _get_batch(self) -> None:
        def call(seen: Seen) -> None:
            ids = self._world.ids
            if self._random.random() < 0.5:
                for user in self._suite.users.BatchGetUsers(BatchGetUsersRequest(user_ids=ids)).users:
                    self._world.see_user(seen, user)
            else:
                request = BatchGetPreferencesRequest(user_ids=ids)
                for preferences in self._suite.preferences.BatchGetPreferences(request).preferences:
                    self._world.see_preferences(seen, preferences)

        self._note("get batch", call, apart=True)


class _Rollback:
    """Rolls a transaction back on an exception, where somebody listens. It was never asked to commit, so it never will
    be committed.
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def __enter__(self) -> Transaction:
        return self._transaction

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, _Unanswered):
            return
        with contextlib.suppress(ServiceError):
            self._transaction.rollback()
        if not isinstance(error, Refused):
            raise Refused(str(error)) from error


class _Unanswered(ServiceError):
    """Nobody said what became of a commit."""


def _commit(transaction: Transaction) -> None:
    """Repeats it until there is an answer. Raises Refused, _Unanswered."""
    deadline = time.monotonic() + COMMIT_PATIENCE
    while True:
        try:
            transaction.commit()
            return
        except REFUSALS as error:
            raise Refused(error.reason) from error
        except ServiceError as error:
            if time.monotonic() > deadline:
                raise _Unanswered(str(error)) from error
            time.sleep(0.1)


def _etags(*etags: str) -> tuple[str, ...]:
    return tuple(etag for etag in etags if etag)
