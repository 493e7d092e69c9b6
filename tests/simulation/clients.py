"""Callers: what they do, and what they conclude from what they are told.

A client takes an answer for what it is: success, a refusal, or nothing known. Whatever it concludes, the oracle checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from handfast.accounts.v1 import accounts_pb2 as accounts
from handfast.client.errors import FailedPrecondition, NotFound, ServiceError
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, Preferences
from handfast.server.chassis.errors import AnswerErased
from handfast.server.chassis.requests.paging import require_page
from handfast.server.transactions import wire
from handfast.server.transactions.coordinator.coordinator import FINAL
from handfast.server.users.errors import EmailTaken
from handfast.server.users.service import USERS
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.users.v1 import users_pb2 as users
from tests.simulation.bank import BankStub
from tests.simulation.network import definite
from tests.simulation.oracle import seen, shown_by, write_of
from tests.simulation.requests import SET, Requests
from tests.simulation.scheduler import SECOND, Process
from tests.simulation.servers import suite_of
from tests.simulation.transactions import Caller

if TYPE_CHECKING:
    from tests.simulation.world import World

REPEATS = 3


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
        self.world, self.rng, self.oracle = world, world.rng, world.oracle
        self.name = name
        self.process = Process(name)
        self.suite: Any = suite_of(world, self.process)
        if world.has_bank:
            self.bank = self.suite.stub(BankStub, "bank")
        self.requests = Requests(world, name)

    def act(self) -> None:
        profile = self.world.profile
        for action in self.rng.choices(list(profile.actions), list(profile.actions.values()), k=profile.length):
            self.world.scheduler.sleep(int(self.rng.random() ** 3 * profile.thinking * SECOND))
            getattr(self, f"_{action}")()

    def create_accounts(self) -> None:
        for key, email in zip(self.requests.keys, self.requests.emails, strict=False):
            self._create_account(key, email)

    def create_another_account(self) -> None:
        """Nothing stands in its way, once all is well."""
        key = "another"
        self._create_account(key, f"{key}@example.com")
        if ("users", key) not in self.oracle.now:
            self.oracle.fail("no account can be created any more")

    def read_everything(self) -> None:
        for key in self.requests.keys:
            self._get_user(key)
            self._get_preferences(key)
            self._get_account(key)
        if self.world.has_bank:
            self._get_statement()
        for email in self.requests.emails:
            self._look_up(email)
        self._list()

    # Plain writes

    def _update_user(self) -> None:
        self._plain(self.suite.users.UpdateUser, self.requests.user_update())

    def _create_user(self) -> None:
        self._plain(self.suite.users.CreateUser, self.requests.user_creation())

    def _delete_user(self) -> None:
        self._plain(self.suite.users.DeleteUser, self.requests.user_deletion())

    def _update_preferences(self) -> None:
        self._plain(self.suite.preferences.UpdatePreferences, self.requests.preferences_update())

    def _move(self) -> None:
        self._plain(self.bank.Move, self.requests.move())

    def _plain(self, method: Any, request: Any) -> None:
        """A request id is there half of the time, and then the call is repeated until it is answered."""
        write, since = write_of(request), self.oracle.step
        assert write is not None
        if self.rng.random() < 0.5:
            request.request_id = self.requests.request_id()
        certain = not request.request_id
        for _ in range(REPEATS):
            try:
                reply = method(request)
            except ServiceError as error:
                if error.reason == AnswerErased.reason:
                    if write.tag:
                        self.oracle.acknowledged(write.tag, f"{self.name} was told {error}")
                    return
                self._check_taken(error, request, since)
                if definite(error):
                    if certain and write.tag:
                        self.oracle.refused(write.tag, f"{self.name} was told {error}")
                    return
                certain = False
                if not request.request_id:
                    return
                self.think()
            else:
                if write.tag:
                    self.oracle.acknowledged(write.tag, f"{self.name} was told OK")
                self._read(request, reply, since, method.method.name)
                return

    # Account calls

    def _update_account(self) -> None:
        key, tag = self.requests.key(), self.requests.tag()
        user = self.requests.user_update(key, tag + "u")
        preferences = self.requests.preferences_update(key, tag + "p")
        request = accounts.UpdateUserAndPreferencesRequest(
            user=user.user,
            user_update_mask=user.update_mask,
            preferences=preferences.preferences,
            preferences_update_mask=preferences.update_mask,
        )
        self._account(self.suite.accounts.UpdateUserAndPreferences, request, key, tag)

    def _create_account(self, key: str = "", email: str = "") -> None:
        key, tag = key or self.requests.key(), self.requests.tag()
        request = accounts.CreateAccountRequest(
            user=self.requests.user_creation(key, tag + "u", email).user,
            preferences=Preferences(values={tag + "p": SET}),
        )
        self._account(self.suite.accounts.CreateAccount, request, key, tag)

    def _delete_account(self) -> None:
        key = self.requests.key()
        self._account(self.suite.accounts.DeleteAccount, accounts.DeleteAccountRequest(user_id=key), key, "")

    def _account(self, method: Any, request: Any, key: str, tag: str) -> None:
        oracle, since = self.oracle, self.oracle.step
        if self.rng.random() < 0.7:
            request.request_id = self.requests.request_id()
        certain = not request.request_id
        tags = (tag + "u", tag + "p") if tag else ()
        for _ in range(REPEATS):
            try:
                reply = method(request, timeout=self.rng.choice((0.5, 3.0)))
            except ServiceError as error:
                final = bool(request.request_id) and error.code() in FINAL and not error.retryable
                told = f"{self.name} was told {error}"
                if error.reason == AnswerErased.reason:
                    for each in tags:
                        oracle.acknowledged(each, told)
                    return
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
                    if self.rng.random() < 0.3:
                        self.ask(method=method.method.path.removeprefix("/"), request_id=request.request_id)
                self.think()
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
            self.oracle.taken(user.email, user.user_id, since, f"{self.name} was told {error}")

    # Transactions

    def _transact(self) -> None:
        Caller(self).run()

    # Transactions by hand

    def _transaction(self) -> None:
        begin = pb.BeginTransactionRequest()
        begin.timeout.seconds = self.rng.choice(self.world.profile.timeouts)
        try:
            begun = self.suite.transactions.BeginTransaction(begin).transaction
        except ServiceError:
            return
        tx = Transaction(begun.transaction_id, begun.deadline.ToMicroseconds())
        refused = False
        for _ in range(self.rng.choice(self.world.profile.operations)):
            if self._stage(tx) is False:
                refused = True
                break
        chance = self.rng.random()
        if chance < 0.1:
            self.world.log(self.name, f"dies in the middle of {tx.id}")
        elif not tx.uncertain and self.rng.random() < self.world.profile.overcounting:
            self._commit_too_much(tx)
        elif not tx.staged or chance < 0.25 or (refused and chance < 0.6):
            self.roll_back(tx.id)
        else:
            self._commit(tx)

    def _commit_too_much(self, tx: Transaction) -> None:
        """Which is refused, but for a participant that does not answer."""
        named = dict(tx.staged)
        participant = self.rng.choice(self.world.participants)
        named[participant] = named.get(participant, 0) + self.rng.randint(1, 2)
        self.oracle.overcounted.add(tx.id)
        for _ in range(REPEATS):
            try:
                self.suite.transactions.CommitTransaction(_commit_request(tx, named))
            except ServiceError as error:
                if definite(error):
                    return
                self.think()
            else:
                self.oracle.committed_as(tx.id, named, f"{self.name} was told COMMITTED")
                return

    def _accept_losses(self) -> None:
        """As an operator does who knows what is lost for good."""
        for id_ in sorted(self.oracle.overcounted):
            committed = self.oracle.decisions.get(id_)
            if committed:
                request = pb.AcceptLossRequest(transaction_id=id_, participants=sorted(committed))
                try:
                    self.suite.transactions.AcceptLoss(request)
                except ServiceError as error:
                    self.world.log(self.name, f"could not accept the loss of {id_}: {error}")

    def _stage(self, tx: Transaction) -> bool | None:
        """Whether the operation is acknowledged; None where that is not known."""
        acknowledged = self._try_to_stage(tx)
        tx.uncertain = tx.uncertain or not acknowledged
        return acknowledged

    def _try_to_stage(self, tx: Transaction) -> bool | None:
        participant = self.rng.choice(("users", "users", "preferences"))
        if self.world.has_bank and self.rng.random() < self.world.profile.banking:
            participant = "bank"
        method, request = self._operation(participant)
        number = tx.staged.get(participant, 0) + 1
        metadata = wire.stage_metadata(tx.id, number, tx.deadline)
        for _ in range(self.rng.randint(1, REPEATS)):
            try:
                method(request, metadata=metadata, timeout=self.rng.choice((0.3, 2.0)))
            except ServiceError as error:
                if definite(error):
                    return False
            else:
                tx.staged[participant] = number
                self.oracle.staged_as(tx.id, participant, number, request, f"{self.name} was told OK")
                return True
        if self.rng.random() < 0.5:
            # It goes on: that the next one is acknowledged says that this one is there.
            method, request = self._operation(participant)
            try:
                method(request, metadata=wire.stage_metadata(tx.id, number + 1, tx.deadline))
            except ServiceError:
                return False
            tx.staged[participant] = number + 1
            self.oracle.staged_as(tx.id, participant, number + 1, request, f"{self.name} was told OK")
            return True
        return None

    def _operation(self, participant: str) -> tuple[Any, Any]:
        if participant == "preferences":
            return self.suite.preferences.UpdatePreferences, self.requests.preferences_update()
        if participant == "bank":
            return self.bank.Move, self.requests.move()
        chance = self.rng.random()
        if chance < 0.7:
            return self.suite.users.UpdateUser, self.requests.user_update()
        if chance < 0.85:
            return self.suite.users.CreateUser, self.requests.user_creation()
        return self.suite.users.DeleteUser, self.requests.user_deletion()

    def _commit(self, tx: Transaction) -> None:
        named = self._some_of(tx)
        if not named:
            self.roll_back(tx.id)
            return
        for _ in range(REPEATS):
            try:
                self.suite.transactions.CommitTransaction(_commit_request(tx, named))
            except ServiceError as error:
                if error.reason == "OPERATIONS_MISSING":
                    self.oracle.fail(f"{self.name} was refused to commit what was acknowledged: {error}")
                if error.reason == "TRANSACTION_ABORTED":
                    self.oracle.doomed(tx.id, f"{self.name} was told ABORTED")
                if definite(error):
                    return
                self.think()
                chance = self.rng.random()
                if chance < 0.2:
                    self.roll_back(tx.id)
                    return
                if chance < 0.4:
                    self._stage(tx)
                if chance < 0.8:
                    named = self._some_of(tx) or named  # which it must not do, and has to be told
            else:
                self.oracle.committed_as(tx.id, named, f"{self.name} was told COMMITTED")
                return
        self.ask(transaction_id=tx.id)

    def _some_of(self, tx: Transaction) -> dict[str, int]:
        """What is acknowledged, or less."""
        named = dict(tx.staged)
        if self.rng.random() < 0.4:
            participant = self.rng.choice(sorted(named))
            named[participant] -= 1
            if not named[participant]:
                del named[participant]
        return named

    def roll_back(self, transaction_id: str) -> None:
        try:
            request = pb.RollbackTransactionRequest(transaction_id=transaction_id, abort_reason="TEST")
            self.suite.transactions.RollbackTransaction(request)
        except FailedPrecondition:
            pass
        except ServiceError:
            return
        else:
            self.oracle.doomed(transaction_id, f"{self.name} was told that it is rolled back")

    def ask(self, **question: str) -> None:
        """What became of a transaction, or of an account call."""
        decided = set(self.oracle.decisions)
        try:
            request = pb.GetTransactionRequest(**question)
            told = self.suite.transactions.GetTransaction(request).transaction
        except ServiceError:
            return
        why = f"{self.name} was told {pb.TransactionState.Name(told.state)}"
        match told.state:
            case pb.TRANSACTION_STATE_COMMITTED:
                branches = {branch.participant: branch.operation_count for branch in told.branches}
                self.oracle.committed_as(told.transaction_id, branches, why)
            case pb.TRANSACTION_STATE_ABORTED:
                self.oracle.doomed(told.transaction_id, why)
            case pb.TRANSACTION_STATE_UNDECIDED if told.transaction_id in decided:
                self.oracle.fail(f"{why}, but {told.transaction_id} was decided before the call")

    # Reads

    def _get_user(self, key: str = "") -> None:
        self._get(self.suite.users.GetUser, users.GetUserRequest(user_id=key or self.requests.key()))

    def _get_preferences(self, key: str = "") -> None:
        self._get(self.suite.preferences.GetPreferences, GetPreferencesRequest(user_id=key or self.requests.key()))

    def _batch_get(self) -> None:
        self._get(self.suite.users.BatchGetUsers, users.BatchGetUsersRequest(user_ids=self.requests.keys))

    def _get_statement(self) -> None:
        self._get(self.bank.GetStatement, self.requests.statement())

    def _get(self, method: Any, request: Any) -> None:
        since = self.oracle.step
        try:
            reply = method(request)
        except NotFound:
            reply = None
        except ServiceError:
            return
        self._read(request, reply, since, method.method.name)

    def _read(self, request: Any, reply: Any, since: int, how: str) -> None:
        for shown in shown_by(request, reply):
            self.oracle.read(shown.place, since, shown.value, how)

    def _look_up(self, email: str = "") -> None:
        email, since = email or self.requests.email(), self.oracle.step
        try:
            user = self.suite.users.LookupUser(users.LookupUserRequest(email=email)).user
        except NotFound:
            user = None
        except ServiceError:
            return
        self.oracle.looked_up(email, since, user)

    def _list(self) -> None:
        token = after = ""
        while True:
            since = self.oracle.step
            try:
                reply = self.suite.users.ListUsers(users.ListUsersRequest(page_size=2, page_token=token))
            except ServiceError:
                return
            token = reply.next_page_token
            until, _ = require_page(users.ListUsersRequest(page_token=token), USERS)
            self.oracle.listed(after, until, since, list(reply.users))
            if not token:
                return
            after = until

    def _get_account(self, key: str = "") -> None:
        key, since = key or self.requests.key(), self.oracle.step
        try:
            account = self.suite.accounts.GetAccount(accounts.GetAccountRequest(user_id=key)).account
        except NotFound:
            self.oracle.read(("users", key), since, None, "GetAccount")
            return
        except ServiceError:
            return
        self.oracle.read_account(key, since, seen("users", account.user), seen("preferences", account.preferences))

    def think(self) -> None:
        self.world.scheduler.sleep(self.rng.randrange(50_000))


def _commit_request(tx: Transaction, named: dict[str, int]) -> pb.CommitTransactionRequest:
    branches = [pb.TransactionBranch(participant=each, operation_count=named[each]) for each in named]
    return pb.CommitTransactionRequest(transaction_id=tx.id, branches=branches)
