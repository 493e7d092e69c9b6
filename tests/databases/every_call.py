"""Calls of all kinds on servers of a test's own: each method, plain and within transactions, what gets in each other's
way, and what servers do in the background."""

from __future__ import annotations

import itertools
from contextlib import suppress

from google.protobuf.struct_pb2 import Value

from handfast.accounts.v1 import accounts_pb2 as accounts
from handfast.client import Aborted, AlreadyExists, NotFound, Suite, Transaction
from handfast.preferences.v1 import preferences_pb2 as preferences
from handfast.server.chassis.ids import new_id
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub, ParticipantServiceStub
from handfast.users.v1 import users_pb2 as users
from handfast.users.v1.users_pb2 import User
from tests.transactions.calls import Transaction as ByHand

PARTICIPANTS = ("users", "preferences")
LIGHT, DARK = ({"theme": Value(string_value=theme)} for theme in ("light", "dark"))


class EveryCall:
    def __init__(self, client: Suite) -> None:
        self._client = client
        self._numbers = itertools.count()

    def make(self) -> None:
        self.plain()
        self.of_accounts()
        self.definitions()
        self.transactions()
        self.by_hand()
        self.conflicts()
        self.of_operators()

    def new_user(self) -> User:
        name = f"user-{next(self._numbers)}"
        user = User(user_id=name, email=f"{name}@example.com")
        return self._client.users.CreateUser(users.CreateUserRequest(user=user)).user

    def plain(self) -> None:
        service, ada = self._client.users, self.new_user()
        request = users.CreateUserRequest(user=User(email="twice@example.com"), request_id=new_id())
        assert service.CreateUser(request) == service.CreateUser(request)  # the answer that is stored
        with suppress(AlreadyExists):
            service.CreateUser(users.CreateUserRequest(user=User(email="twice@example.com")))
        service.GetUser(users.GetUserRequest(user_id=ada.user_id))
        service.LookupUser(users.LookupUserRequest(email=ada.email))
        service.BatchGetUsers(users.BatchGetUsersRequest(user_ids=[ada.user_id, "nobody"]))
        page = service.ListUsers(users.ListUsersRequest(page_size=1))
        service.ListUsers(users.ListUsersRequest(page_size=1, page_token=page.next_page_token))
        service.UpdateUser(users.UpdateUserRequest(user=User(user_id=ada.user_id, email="new@example.com")))
        service.DeleteUser(users.DeleteUserRequest(user_id=ada.user_id))
        with suppress(NotFound):
            service.DeleteUser(users.DeleteUserRequest(user_id=ada.user_id))
        of = self._client.preferences
        change = preferences.Preferences(user_id="eve", values=LIGHT)
        of.UpdatePreferences(preferences.UpdatePreferencesRequest(preferences=change))
        of.GetPreferences(preferences.GetPreferencesRequest(user_id="eve", include_defaults=True))
        of.BatchGetPreferences(preferences.BatchGetPreferencesRequest(user_ids=["eve", "nobody"]))

    def of_accounts(self) -> None:
        service = self._client.accounts
        user, light = User(user_id="grace", email="grace@example.com"), preferences.Preferences(values=LIGHT)
        service.CreateAccount(accounts.CreateAccountRequest(user=user, preferences=light))
        service.GetAccount(accounts.GetAccountRequest(user_id="grace"))
        dark = preferences.Preferences(values=DARK)
        user = User(user_id="grace", email="g@example.com", display_name="Grace")
        request = accounts.UpdateUserAndPreferencesRequest(user=user, preferences=dark, request_id=new_id())
        service.UpdateUserAndPreferences(request)
        service.UpdateUserAndPreferences(request)
        asked = pb.GetTransactionRequest(
            request_id=request.request_id, method="handfast.accounts.v1.AccountService/UpdateUserAndPreferences"
        )
        self._client.transactions.GetTransaction(asked)
        with suppress(AlreadyExists):
            taken = User(user_id="other", email="g@example.com")
            service.CreateAccount(accounts.CreateAccountRequest(user=taken, preferences=light))
        service.DeleteAccount(accounts.DeleteAccountRequest(user_id="grace"))

    def definitions(self) -> None:
        service = self._client.preferences
        size = preferences.PreferenceDefinition(
            key="size", type=preferences.PREFERENCE_TYPE_NUMBER, default_value=Value(number_value=1)
        )
        service.CreatePreferenceDefinition(preferences.CreatePreferenceDefinitionRequest(definition=size))
        page = service.ListPreferenceDefinitions(preferences.ListPreferenceDefinitionsRequest(page_size=1))
        service.ListPreferenceDefinitions(
            preferences.ListPreferenceDefinitionsRequest(page_size=1, page_token=page.next_page_token)
        )

    def transactions(self) -> None:
        ada, bob = self.new_user(), self.new_user()

        def change(tx: Transaction) -> None:
            found = tx.users.GetUser(users.GetUserRequest(user_id=ada.user_id)).user
            tx.users.GetUser(users.GetUserRequest(user_id=bob.user_id))
            with suppress(NotFound):
                tx.preferences.GetPreferences(preferences.GetPreferencesRequest(user_id=bob.user_id))
            found.display_name, found.email = "Ada", "ada@example.org"
            found = tx.users.UpdateUser(users.UpdateUserRequest(user=found)).user
            found.email = ada.email
            tx.users.UpdateUser(users.UpdateUserRequest(user=found))
            values = preferences.Preferences(user_id=ada.user_id, values=DARK)
            tx.preferences.UpdatePreferences(preferences.UpdatePreferencesRequest(preferences=values))

        def look(tx: Transaction) -> None:
            for each in (ada, bob):
                tx.users.GetUser(users.GetUserRequest(user_id=each.user_id))

        self._client.transact(change)
        self._client.transact(look)
        with suppress(InterruptedError), self._client.transaction() as tx:
            tx.users.DeleteUser(users.DeleteUserRequest(user_id=ada.user_id))
            tx.users.CreateUser(users.CreateUserRequest(user=User(email="nobody@example.com")))
            raise InterruptedError  # rolls back

    def by_hand(self) -> None:
        """What a client does only after a conflict, and what the servers do among themselves only now and then."""
        ada, bob, tx = self.new_user(), self.new_user(), ByHand(self._client)
        locks = self._client.stub(LockServiceStub, "users")
        names = [f"users/{each.user_id}" for each in (ada, bob)]
        tx.stage("users", locks.LockResources, pb.LockResourcesRequest(to_read=names[:1], to_change=names[1:]))
        reads = [pb.Read(resource="users/nobody", revision="-")]
        tx.stage("users", locks.LockReads, pb.LockReadsRequest(reads=reads))
        locks.CompareReads(pb.CompareReadsRequest(reads=reads))
        tx.commit()

        open_, service = ByHand(self._client), self._client.users
        change = users.UpdateUserRequest(user=User(user_id=bob.user_id, email="b@example.com"))
        for _ in range(2):
            open_.stage("users", service.UpdateUser, change)
        service.GetUser(users.GetUserRequest(user_id=bob.user_id))
        stub = self._client.stub(ParticipantServiceStub, "users")
        stub.QueryBranch(pb.QueryBranchRequest(transaction_id=open_.id, participant="users"))
        stub.ListBranches(pb.ListBranchesRequest(page_size=1, participant="users"))
        stub.CloseBranch(pb.CloseBranchRequest(transaction_id=open_.id, participant="users"))
        open_.rollback()
        unheard_of = pb.Decision(transaction_id=new_id(), state=pb.TRANSACTION_STATE_ABORTED)
        stub.FinishTransactions(pb.FinishTransactionsRequest(decisions=[unheard_of], participant="users"))

    def conflicts(self) -> None:
        """A plain write that meets a pending change, and one that meets a read lock."""
        ada, bob, tx = self.new_user(), self.new_user(), ByHand(self._client)
        service, locks = self._client.users, self._client.stub(LockServiceStub, "users")
        tx.stage("users", service.UpdateUser, users.UpdateUserRequest(user=User(user_id=ada.user_id, locale="de")))
        tx.stage("users", locks.LockResources, pb.LockResourcesRequest(to_read=[f"users/{bob.user_id}"]))
        for user in (ada, bob):
            with suppress(Aborted):
                service.UpdateUser(users.UpdateUserRequest(user=User(user_id=user.user_id, locale="fr")))
        tx.commit()
        for user in (ada, bob):  # finishes it, where the coordinator has not done so yet
            service.UpdateUser(users.UpdateUserRequest(user=User(user_id=user.user_id, locale="fr")))

    def of_operators(self) -> None:
        service, tx = self._client.transactions, ByHand(self._client)
        tx.stage("users", self._client.users.UpdateUser, users.UpdateUserRequest(user=self.new_user()))
        tx.commit()
        for state in (pb.TRANSACTION_STATE_UNSPECIFIED, pb.TRANSACTION_STATE_COMMITTED):
            service.ListTransactions(pb.ListTransactionsRequest(page_size=1, state=state))
        page = service.ListTransactions(pb.ListTransactionsRequest(page_size=1))
        service.ListTransactions(pb.ListTransactionsRequest(page_size=1, page_token=page.next_page_token))
        service.ListTransactions(pb.ListTransactionsRequest(unfinished=True))
        service.BatchGetTransactions(pb.BatchGetTransactionsRequest(transaction_ids=[tx.id, new_id()]))
        service.GetTransaction(pb.GetTransactionRequest(transaction_id=tx.id))
        service.AcceptLoss(pb.AcceptLossRequest(transaction_id=tx.id, participants=["users"]))
        service.GetOwnerKeys(pb.GetOwnerKeysRequest())
