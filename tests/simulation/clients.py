"""Callers: what they do, and what they conclude from what they are told.

A client takes an answer for what it is: success, a refusal, or nothing known. Whatever it concludes, the oracle checks.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1 import accounts_pb2 as accounts
from handfast.client.errors import FailedPrecondition, NotFound, ServiceError
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, Preferences, UpdatePreferencesRequest
from handfast.server.chassis.requests.paging import require_page
from handfast.server.transactions import wire
from handfast.server.transactions.coordinator.coordinator import FINAL
from handfast.server.users.errors import EmailTaken
from handfast.server.users.service import USERS
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.users.v1 import users_pb2 as users
from tests.simulation.network import definite
from tests.simulation.oracle import seen, write_of
from tests.simulation.scheduler import SECOND, Process
from tests.simulation.servers import SuiteOfStubs

if TYPE_CHECKING:
    from tests.simulation.world import World

KEYS = ("u1", "u2", "u3")
EMAILS = tuple(f"{name}@example.com" for name in ("ada", "bob", "cy", "dee"))
REPEATS = 3
SET = Value(string_value="set")


@dataclass
class Transaction:
    id: str
    deadline: int
    staged: dict[str, int] = field(default_factory=dict)
    """How many operations each participant has acknowledged."""
    uncertain: bool = False
    """Whether an operation was sent that nobody acknowledged."""


class Client:
    def __init__(self, world: World, name: str) -> None:
        self._world, self._rng, self._oracle = world, world.rng, world.oracle
        self.name = name
        self.process = Process(name)
        self._suite = SuiteOfStubs(world, self.process)
        self._keys, self._emails = KEYS[: world.profile.accounts], EMAILS[: world.profile.emails]
        self._tags = 0

    def act(self) -> None:
        profile = self._world.profile
        for action in self._rng.choices(list(profile.actions), list(profile.actions.values()), k=profile.length):
            self._world.scheduler.sleep(int(self._rng.random() ** 3 * profile.thinking * SECOND))
            getattr(self, f"_{action}")()

    def create_accounts(self) -> None:
        for key, email in zip(self._keys, self._emails, strict=False):
            self._create_account(key, email)

    def create_another_account(self) -> None:
        """Nothing stands in its way, once all is well."""
        key = "another"
        self._create_account(key, f"{key}@example.com")
        if ("users", key) not in self._oracle.now:
            self._oracle.fail("no account can be created any more")

    def read_everything(self) -> None:
        for key in self._keys:
            self._get_user(key)
            self._get_preferences(key)
            self._get_account(key)
        for email in self._emails:
            self._look_up(email)
        self._list()

    # Plain writes

    def _update_user(self) -> None:
        request = self._user_update()
        self._plain(self._suite.users.UpdateUser, request, "users", lambda reply: reply.user)

    def _create_user(self) -> None:
        request = self._user_creation()
        self._plain(self._suite.users.CreateUser, request, "users", lambda reply: reply.user)

    def _delete_user(self) -> None:
        request = users.DeleteUserRequest(user_id=self._key())
        self._plain(self._suite.users.DeleteUser, request, "users", lambda reply: None)

    def _update_preferences(self) -> None:
        request = self._preferences_update()
        self._plain(self._suite.preferences.UpdatePreferences, request, "preferences", lambda reply: reply.preferences)

    def _plain(self, method: Any, request: Any, participant: str, resource: Callable[[Any], Any]) -> None:
        """A request id is there half of the time, and then the call is repeated until it is answered."""
        write, since = write_of(request), self._oracle.step
        assert write is not None
        if self._rng.random() < 0.5:
            request.request_id = self._request_id()
        certain = not request.request_id
        for _ in range(REPEATS):
            try:
                reply = method(request)
            except ServiceError as error:
                self._check_taken(error, request, since)
                if definite(error):
                    if certain and write.tag:
                        self._oracle.refused(write.tag, f"{self.name} was told {error}")
                    return
                certain = False
                if not request.request_id:
                    return
                self._think()
            else:
                if write.tag:
                    self._oracle.acknowledged(write.tag, f"{self.name} was told OK")
                    self._oracle.read(write.place, since, seen(participant, resource(reply)), method.method.name)
                return

    # Account calls

    def _update_account(self) -> None:
        key, tag = self._key(), self._tag()
        user, preferences = self._user_update(key, tag + "u"), self._preferences_update(key, tag + "p")
        request = accounts.UpdateUserAndPreferencesRequest(
            user=user.user,
            user_update_mask=user.update_mask,
            preferences=preferences.preferences,
            preferences_update_mask=preferences.update_mask,
        )
        self._account(self._suite.accounts.UpdateUserAndPreferences, request, key, tag)

    def _create_account(self, key: str = "", email: str = "") -> None:
        key, tag = key or self._key(), self._tag()
        request = accounts.CreateAccountRequest(
            user=self._user_creation(key, tag + "u", email).user,
            preferences=Preferences(values={tag + "p": SET}),
        )
        self._account(self._suite.accounts.CreateAccount, request, key, tag)

    def _delete_account(self) -> None:
        key = self._key()
        self._account(self._suite.accounts.DeleteAccount, accounts.DeleteAccountRequest(user_id=key), key, "")

    def _account(self, method: Any, request: Any, key: str, tag: str) -> None:
        oracle, since = self._oracle, self._oracle.step
        if self._rng.random() < 0.7:
            request.request_id = self._request_id()
        certain = not request.request_id
        tags = (tag + "u", tag + "p") if tag else ()
        for _ in range(REPEATS):
            try:
                reply = method(request, timeout=self._rng.choice((0.5, 3.0)))
            except ServiceError as error:
                final = bool(request.request_id) and error.code() in FINAL and not error.retryable
                told = f"{self.name} was told {error}"
                self._check_taken(error, request, since)
                if definite(error):
                    if certain or final:
                        for each in tags:
                            oracle.refused(each, told)
                    if final or not request.request_id:
                        return
                else:
                    certain = False
                    if not request.request_id:
                        return
                    if self._rng.random() < 0.3:
                        self._ask(method=method.method.path.removeprefix("/"), request_id=request.request_id)
                self._think()
            else:
                for each in tags:
                    oracle.acknowledged(each, f"{self.name} was told OK")
                oracle.committed_as(reply.transaction_id, {"users": 1, "preferences": 1}, f"{self.name} was told OK")
                if tag:
                    oracle.read(("users", key), since, seen("users", reply.account.user), method.method.name)
                    oracle.read(
                        ("preferences", key),
                        since,
                        seen("preferences", reply.account.preferences),
                        method.method.name,
                    )
                return

    def _check_taken(self, error: ServiceError, request: Any, since: int) -> None:
        """A pending change of who has an email is no reason to say that it is taken: it may never come to be."""
        if error.reason == EmailTaken.reason:
            user = request.user
            self._oracle.taken(user.email, user.user_id, since, f"{self.name} was told {error}")

    # Transactions by hand

    def _transaction(self) -> None:
        begin = pb.BeginTransactionRequest()
        begin.timeout.seconds = self._rng.choice(self._world.profile.timeouts)
        try:
            begun = self._suite.transactions.BeginTransaction(begin).transaction
        except ServiceError:
            return
        tx = Transaction(begun.transaction_id, begun.deadline.ToMicroseconds())
        refused = False
        for _ in range(self._rng.choice(self._world.profile.operations)):
            if self._stage(tx) is False:
                refused = True
                break
        chance = self._rng.random()
        if chance < 0.1:
            self._world.log(self.name, f"dies in the middle of {tx.id}")
        elif not tx.uncertain and self._rng.random() < self._world.profile.overcounting:
            self._commit_too_much(tx)
        elif not tx.staged or chance < 0.25 or (refused and chance < 0.6):
            self._roll_back(tx)
        else:
            self._commit(tx)

    def _commit_too_much(self, tx: Transaction) -> None:
        """Which is refused, but for a participant that does not answer."""
        named = dict(tx.staged)
        participant = self._rng.choice(("users", "preferences"))
        named[participant] = named.get(participant, 0) + self._rng.randint(1, 2)
        self._oracle.overcounted.add(tx.id)
        for _ in range(REPEATS):
            try:
                self._suite.transactions.CommitTransaction(_commit_request(tx, named))
            except ServiceError as error:
                if definite(error):
                    return
                self._think()
            else:
                self._oracle.committed_as(tx.id, named, f"{self.name} was told COMMITTED")
                return

    def _accept_losses(self) -> None:
        """As an operator does who knows what is lost for good."""
        for id_ in sorted(self._oracle.overcounted):
            committed = self._oracle.decisions.get(id_)
            if committed:
                request = pb.AcceptLossRequest(transaction_id=id_, participants=sorted(committed))
                try:
                    self._suite.transactions.AcceptLoss(request)
                except ServiceError as error:
                    self._world.log(self.name, f"could not accept the loss of {id_}: {error}")

    def _stage(self, tx: Transaction) -> bool | None:
        """Whether the operation is acknowledged; None where that is not known."""
        acknowledged = self._try_to_stage(tx)
        tx.uncertain = tx.uncertain or not acknowledged
        return acknowledged

    def _try_to_stage(self, tx: Transaction) -> bool | None:
        participant = self._rng.choice(("users", "users", "preferences"))
        method, request = self._operation(participant)
        number = tx.staged.get(participant, 0) + 1
        metadata = wire.stage_metadata(tx.id, number, tx.deadline)
        for _ in range(self._rng.randint(1, REPEATS)):
            try:
                method(request, metadata=metadata, timeout=self._rng.choice((0.3, 2.0)))
            except ServiceError as error:
                if definite(error):
                    return False
            else:
                tx.staged[participant] = number
                self._oracle.staged_as(tx.id, participant, number, request, f"{self.name} was told OK")
                return True
        if self._rng.random() < 0.5:
            # It goes on: that the next one is acknowledged says that this one is there.
            method, request = self._operation(participant)
            try:
                method(request, metadata=wire.stage_metadata(tx.id, number + 1, tx.deadline))
            except ServiceError:
                return False
            tx.staged[participant] = number + 1
            self._oracle.staged_as(tx.id, participant, number + 1, request, f"{self.name} was told OK")
            return True
        return None

    def _operation(self, participant: str) -> tuple[Any, Any]:
        if participant == "preferences":
            return self._suite.preferences.UpdatePreferences, self._preferences_update()
        chance = self._rng.random()
        if chance < 0.7:
            return self._suite.users.UpdateUser, self._user_update()
        if chance < 0.85:
            return self._suite.users.CreateUser, self._user_creation()
        return self._suite.users.DeleteUser, users.DeleteUserRequest(user_id=self._key())

    def _commit(self, tx: Transaction) -> None:
        named = self._some_of(tx)
        if not named:
            self._roll_back(tx)
            return
        for _ in range(REPEATS):
            try:
                self._suite.transactions.CommitTransaction(_commit_request(tx, named))
            except ServiceError as error:
                if error.reason == "OPERATIONS_MISSING":
                    self._oracle.fail(f"{self.name} was refused to commit what was acknowledged: {error}")
                if error.reason == "TRANSACTION_ABORTED":
                    self._oracle.doomed(tx.id, f"{self.name} was told ABORTED")
                if definite(error):
                    return
                self._think()
                chance = self._rng.random()
                if chance < 0.2:
                    self._roll_back(tx)
                    return
                if chance < 0.4:
                    self._stage(tx)
                if chance < 0.8:
                    named = self._some_of(tx) or named  # which it must not do, and has to be told
            else:
                self._oracle.committed_as(tx.id, named, f"{self.name} was told COMMITTED")
                return
        self._ask(transaction_id=tx.id)

    def _some_of(self, tx: Transaction) -> dict[str, int]:
        """What is acknowledged, or less."""
        named = dict(tx.staged)
        if self._rng.random() < 0.4:
            participant = self._rng.choice(sorted(named))
            named[participant] -= 1
            if not named[participant]:
                del named[participant]
        return named

    def _roll_back(self, tx: Transaction) -> None:
        try:
            request = pb.RollbackTransactionRequest(transaction_id=tx.id, abort_reason="TEST")
            self._suite.transactions.RollbackTransaction(request)
        except FailedPrecondition:
            pass
        except ServiceError:
            return
        else:
            self._oracle.doomed(tx.id, f"{self.name} was told that it is rolled back")

    def _ask(self, **question: str) -> None:
        """What became of a transaction, or of an account call."""
        decided = set(self._oracle.decisions)
        try:
            request = pb.GetTransactionRequest(**question)
            told = self._suite.transactions.GetTransaction(request).transaction
        except ServiceError:
            return
        why = f"{self.name} was told {pb.TransactionState.Name(told.state)}"
        match told.state:
            case pb.TRANSACTION_STATE_COMMITTED:
                branches = {branch.participant: branch.operation_count for branch in told.branches}
                self._oracle.committed_as(told.transaction_id, branches, why)
            case pb.TRANSACTION_STATE_ABORTED:
                self._oracle.doomed(told.transaction_id, why)
            case pb.TRANSACTION_STATE_UNDECIDED if told.transaction_id in decided:
                self._oracle.fail(f"{why}, but {told.transaction_id} was decided before the call")

    # Reads

    def _get_user(self, key: str = "") -> None:
        key, since = key or self._key(), self._oracle.step
        try:
            user = self._suite.users.GetUser(users.GetUserRequest(user_id=key)).user
        except NotFound:
            user = None
        except ServiceError:
            return
        self._oracle.read(("users", key), since, seen("users", user), "GetUser")

    def _get_preferences(self, key: str = "") -> None:
        key, since = key or self._key(), self._oracle.step
        try:
            reply = self._suite.preferences.GetPreferences(GetPreferencesRequest(user_id=key))
        except ServiceError:
            return
        self._oracle.read(("preferences", key), since, seen("preferences", reply.preferences), "GetPreferences")

    def _batch_get(self) -> None:
        since = self._oracle.step
        try:
            reply = self._suite.users.BatchGetUsers(users.BatchGetUsersRequest(user_ids=self._keys))
        except ServiceError:
            return
        found = {user.user_id: user for user in reply.users}
        for key in self._keys:
            self._oracle.read(("users", key), since, seen("users", found.get(key)), "BatchGetUsers")

    def _look_up(self, email: str = "") -> None:
        email, since = email or self._rng.choice(self._emails), self._oracle.step
        try:
            user = self._suite.users.LookupUser(users.LookupUserRequest(email=email)).user
        except NotFound:
            user = None
        except ServiceError:
            return
        self._oracle.looked_up(email, since, user)

    def _list(self) -> None:
        token = after = ""
        while True:
            since = self._oracle.step
            try:
                reply = self._suite.users.ListUsers(users.ListUsersRequest(page_size=2, page_token=token))
            except ServiceError:
                return
            token = reply.next_page_token
            until, _ = require_page(users.ListUsersRequest(page_token=token), USERS)
            self._oracle.listed(after, until, since, list(reply.users))
            if not token:
                return
            after = until

    def _get_account(self, key: str = "") -> None:
        key, since = key or self._key(), self._oracle.step
        try:
            account = self._suite.accounts.GetAccount(accounts.GetAccountRequest(user_id=key)).account
        except NotFound:
            self._oracle.read(("users", key), since, None, "GetAccount")
            return
        except ServiceError:
            return
        self._oracle.read_account(key, since, seen("users", account.user), seen("preferences", account.preferences))

    # Requests

    def _user_update(self, key: str = "", tag: str = "") -> users.UpdateUserRequest:
        tag = tag or self._tag()
        user = users.User(user_id=key or self._key(), labels={tag: "set"})
        paths = [self._one_or_all("labels", tag)]
        if self._rng.random() < self._world.profile.moving:
            user.email = self._rng.choice(self._emails)
            paths.append("email")
        return users.UpdateUserRequest(user=user, update_mask=FieldMask(paths=paths))

    def _user_creation(self, key: str = "", tag: str = "", email: str = "") -> users.CreateUserRequest:
        return users.CreateUserRequest(
            user=users.User(
                user_id=key or self._key(),
                email=email or self._rng.choice(self._emails),
                labels={tag or self._tag(): "set"},
            )
        )

    def _preferences_update(self, key: str = "", tag: str = "") -> UpdatePreferencesRequest:
        tag = tag or self._tag()
        return UpdatePreferencesRequest(
            preferences=Preferences(user_id=key or self._key(), values={tag: SET}),
            update_mask=FieldMask(paths=[self._one_or_all("values", tag)]),
        )

    def _one_or_all(self, entries: str, tag: str) -> str:
        """To replace all shows when a write is applied twice, to add one when another is lost."""
        return entries if self._rng.random() < 0.4 else f"{entries}.{tag}"

    def _key(self) -> str:
        return self._rng.choice(self._keys)

    def _tag(self) -> str:
        self._tags += 1
        return f"w{self.name[-1]}x{self._tags}"

    def _request_id(self) -> str:
        id_ = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        self._world.name_request(id_)
        return id_

    def _think(self) -> None:
        self._world.scheduler.sleep(self._rng.randrange(50_000))


def _commit_request(tx: Transaction, named: dict[str, int]) -> pb.CommitTransactionRequest:
    branches = [pb.TransactionBranch(participant=each, operation_count=named[each]) for each in named]
    return pb.CommitTransactionRequest(transaction_id=tx.id, branches=branches)
