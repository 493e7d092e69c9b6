"""Reads within a transaction on real servers: what they see, what they tell in their trailer, and LockService."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from handfast.client import (
    Aborted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Suite,
    transaction_metadata,
)
from handfast.preferences.v1.preferences_pb2 import (
    BatchGetPreferencesRequest,
    GetPreferencesRequest,
    ListPreferenceDefinitionsRequest,
)
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.transactions.v1.transactions_pb2_grpc import LockServiceStub
from handfast.users.v1.users_pb2 import (
    BatchGetUsersRequest,
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    ListUsersRequest,
    LookupUserRequest,
    User,
)
from tests.eventually import eventually
from tests.people import create_user, new_email, new_id
from tests.transactions.calls import Transaction
from tests.transactions.test_staged_calls import rename, set_theme

READS = transaction_metadata.READS


@dataclass(frozen=True)
class Seen:
    """A reply, and what its trailer says: by resource the revision, and whether that is held."""

    reply: Any
    reads: dict[str, tuple[str, bool]]

    @property
    def revisions(self) -> dict[str, str]:
        return {resource: revision for resource, (revision, _) in self.reads.items()}


def reads_of(call: Any) -> dict[str, tuple[str, bool]]:
    encoded = [value for key, value in call.trailing_metadata() if key == READS]
    assert len(encoded) <= 1
    reads = [read for each in encoded for read in pb.ReadSet.FromString(each).reads]
    return {read.resource: (read.revision, read.held) for read in reads}


def read(tx: Transaction, method: Any, request: Any) -> Seen:
    reply, call = method.with_call(request, metadata=[(transaction_metadata.TRANSACTION_ID, tx.id)])
    return Seen(reply, reads_of(call))


def staged(tx: Transaction, number: int, method: Any, request: Any) -> Seen:
    reply, call = method.with_call(request, metadata=tx.metadata(number))
    return Seen(reply, reads_of(call))


def get(user: User) -> GetUserRequest:
    return GetUserRequest(user_id=user.user_id)


def name_of(user: User) -> str:
    return f"users/{user.user_id}"


def violations(error: ServiceError) -> dict[str, str]:
    return {each.field: each.description for each in error.violations}


@pytest.fixture
def tx(client: Suite) -> Transaction:
    return Transaction(client)


@pytest.fixture
def ada(client: Suite) -> User:
    return create_user(client, display_name="Ada")


@pytest.fixture
def locks(client: Suite) -> LockServiceStub:
    return client.stub(LockServiceStub, "users")


class TestSee:
    def test_what_the_transaction_has_staged_which_others_do_not(
        self, client: Suite, tx: Transaction, ada: User
    ) -> None:
        before = read(tx, client.users.GetUser, get(ada))
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "Countess"))
        own = read(tx, client.users.GetUser, get(ada))
        assert own.reply.user.display_name == "Countess"
        assert client.users.GetUser(get(ada)).user == ada
        assert read(Transaction(client), client.users.GetUser, get(ada)).reply.user == ada
        assert before.reads == {name_of(ada): (before.revisions[name_of(ada)], False)}
        assert own.reads == {name_of(ada): (before.revisions[name_of(ada)], True)}

    def test_that_the_transaction_has_deleted_something(self, client: Suite, tx: Transaction, ada: User) -> None:
        revision = read(tx, client.users.GetUser, get(ada)).revisions[name_of(ada)]
        tx.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=ada.user_id))
        with pytest.raises(NotFound) as refused:
            read(tx, client.users.GetUser, get(ada))
        assert reads_of(refused.value) == {name_of(ada): (revision, True)}

    def test_many_at_once(self, client: Suite, tx: Transaction, ada: User) -> None:
        eve, nobody = create_user(client), new_id()
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "Countess"))
        seen = read(tx, client.users.BatchGetUsers, BatchGetUsersRequest(user_ids=[ada.user_id, eve.user_id, nobody]))
        assert [user.display_name for user in seen.reply.users] == ["Countess", eve.display_name]
        held = {resource: is_held for resource, (_, is_held) in seen.reads.items()}
        assert held == {name_of(ada): True, name_of(eve): False, f"users/{nobody}": False}
        assert seen.revisions[f"users/{nobody}"] == "-"

    def test_preferences_that_were_never_set(self, client: Suite, tx: Transaction) -> None:
        user_id, other = new_id(), new_id()
        seen = read(tx, client.preferences.GetPreferences, GetPreferencesRequest(user_id=user_id))
        assert seen.reads == {f"preferences/{user_id}": ("-", False)}
        tx.stage("preferences", client.preferences.UpdatePreferences, set_theme(user_id, "dark"))
        both = BatchGetPreferencesRequest(user_ids=[user_id, other])
        seen = read(tx, client.preferences.BatchGetPreferences, both)
        assert seen.reply.preferences[0].values["theme"].string_value == "dark"
        assert seen.reads == {f"preferences/{user_id}": ("-", True), f"preferences/{other}": ("-", False)}


class TestTell:
    def test_what_was_not_there_with_the_error(self, client: Suite, tx: Transaction) -> None:
        nobody = new_id()
        with pytest.raises(NotFound) as refused:
            read(tx, client.users.GetUser, GetUserRequest(user_id=nobody))
        assert reads_of(refused.value) == {f"users/{nobody}": ("-", False)}
        assert refused.value.reason == "USER_NOT_FOUND"

    def test_another_revision_after_each_change_however_it_was_made(
        self, client: Suite, tx: Transaction, ada: User
    ) -> None:
        def revision() -> str:
            return read(tx, client.users.GetUser, get(ada)).revisions[name_of(ada)]

        found = [revision()]
        client.users.UpdateUser(rename(ada.user_id, "Countess"))
        found.append(revision())
        other = Transaction(client)
        other.stage("users", client.users.UpdateUser, rename(ada.user_id, "Augusta"))
        assert revision() == found[-1], "it is not committed"
        other.commit()
        found.append(revision())
        client.users.UpdateUser(rename(ada.user_id, "Byron"))
        found.append(revision())
        assert len(set(found)) == len(found)
        assert all(1 < len(each) <= 16 for each in found)

    def test_nothing_outside_of_transactions(self, client: Suite, ada: User) -> None:
        _, call = client.users.GetUser.with_call(get(ada))
        assert reads_of(call) == {}

    def test_what_a_staged_write_has_met_and_that_it_is_held(self, client: Suite, tx: Transaction, ada: User) -> None:
        before = read(tx, client.users.GetUser, get(ada)).revisions
        request = rename(ada.user_id, "Countess")
        first = staged(tx, 1, client.users.UpdateUser, request)
        assert first.reads == {name_of(ada): (before[name_of(ada)], True)}
        assert staged(tx, 1, client.users.UpdateUser, request) == first, "a repeat"
        assert staged(tx, 2, client.users.UpdateUser, rename(ada.user_id, "Augusta")).reads == first.reads

    def test_no_more_than_fits_into_metadata(self, client: Suite, tx: Transaction) -> None:
        with pytest.raises(ResourceExhausted, match="bytes of metadata") as refused:
            read(tx, client.users.BatchGetUsers, BatchGetUsersRequest(user_ids=[new_id() for _ in range(200)]))
        assert refused.value.reason == "RESPONSE_TOO_LARGE"
        seen = read(tx, client.users.BatchGetUsers, BatchGetUsersRequest(user_ids=[new_id() for _ in range(50)]))
        assert len(seen.reads) == 50


class TestAreRefused:
    @pytest.mark.parametrize(
        "call",
        [
            lambda client: (client.users.ListUsers, ListUsersRequest()),
            lambda client: (client.users.LookupUser, LookupUserRequest(email="ada@example.com")),
            lambda client: (client.preferences.ListPreferenceDefinitions, ListPreferenceDefinitionsRequest()),
        ],
    )
    def test_where_others_could_add_to_what_was_seen(
        self, client: Suite, tx: Transaction, call: Callable[[Suite], tuple[Any, Any]]
    ) -> None:
        with pytest.raises(FailedPrecondition) as refused:
            read(tx, *call(client))
        assert refused.value.reason == "NOT_STAGEABLE"

    def test_with_defaults_which_come_from_all_definitions(self, client: Suite, tx: Transaction) -> None:
        for method, request in (
            (client.preferences.GetPreferences, GetPreferencesRequest(user_id="ada", include_defaults=True)),
            (client.preferences.BatchGetPreferences, BatchGetPreferencesRequest(user_ids=["a"], include_defaults=True)),
        ):
            with pytest.raises(InvalidArgument) as refused:
                read(tx, method, request)
            assert violations(refused.value) == {"include_defaults": "must be false within a transaction"}

    def test_with_the_number_of_an_operation(self, client: Suite, tx: Transaction, ada: User) -> None:
        with pytest.raises(FailedPrecondition, match="only reads within transactions") as refused:
            client.users.GetUser(get(ada), metadata=tx.metadata(1))
        assert refused.value.reason == "NOT_STAGEABLE"

    @pytest.mark.parametrize(
        ("metadata", "key"),
        [
            (("handfast-transaction-id", "x"), "handfast-transaction-id"),
            (("handfast-transaction-deadline", "2026-01-01T00:00:00Z"), "handfast-transaction-id"),
        ],
    )
    def test_without_the_id_of_a_transaction(
        self, client: Suite, ada: User, metadata: tuple[str, str], key: str
    ) -> None:
        with pytest.raises(InvalidArgument) as refused:
            client.users.GetUser(get(ada), metadata=(metadata,))
        assert (refused.value.reason, refused.value.metadata["key"]) == ("INVALID_METADATA", key)


def lock(tx: Transaction, locks: LockServiceStub, seen: Seen) -> None:
    """Locks what was seen, as the next operation of the transaction."""
    reads = [pb.Read(resource=resource, revision=revision) for resource, revision in seen.revisions.items()]
    tx.stage("users", locks.LockReads, pb.LockReadsRequest(reads=reads))


class TestLockReads:
    def test_what_was_read_stays_so_until_the_decision(
        self, client: Suite, tx: Transaction, ada: User, locks: LockServiceStub
    ) -> None:
        lock(tx, locks, read(tx, client.users.GetUser, get(ada)))
        with pytest.raises(Aborted) as refused:
            client.users.UpdateUser(rename(ada.user_id, "Countess"))
        assert (refused.value.reason, refused.value.retryable) == ("PENDING_CHANGE", True)
        assert client.users.GetUser(get(ada)).user == ada
        tx.commit()
        client.users.UpdateUser(rename(ada.user_id, "Countess"))

    def test_what_has_changed_is_refused_and_named(
        self, client: Suite, tx: Transaction, ada: User, locks: LockServiceStub
    ) -> None:
        seen = read(tx, client.users.GetUser, get(ada))
        client.users.UpdateUser(rename(ada.user_id, "Countess"))
        with pytest.raises(Aborted) as refused:
            lock(tx, locks, seen)
        assert (refused.value.reason, refused.value.retryable) == ("READ_CHANGED", True)
        assert refused.value.metadata == {"transaction_id": tx.id, "resource": name_of(ada)}

    def test_only_a_transaction_locks(self, ada: User, locks: LockServiceStub) -> None:
        with pytest.raises(ServiceError) as refused:
            locks.LockReads(pb.LockReadsRequest(reads=[pb.Read(resource=name_of(ada), revision="x")]))
        assert (refused.value.code(), refused.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_METADATA")

    @pytest.mark.parametrize("method", ["LockReads", "CompareReads"])
    def test_what_is_named_has_to_be_of_the_service(self, tx: Transaction, locks: LockServiceStub, method: str) -> None:
        must = "must be <kind>/<key>, with a kind of this service: users"
        for resource, rule in (
            ("", must),
            ("ada", must),
            ("users/", must),
            ("preferences/ada", must),
            ("users/" + 129 * "a", "must have up to 128 characters, not 129"),
            ("users/a\0", "must not have control characters"),
        ):
            reads = [pb.Read(resource="users/a"), pb.Read(resource=resource)]
            assert self.refused(tx, locks, method, reads) == {"reads[1].resource": rule}
        for reads in ([], [pb.Read(resource="users/a"), pb.Read(resource="users/a", revision="r")]):
            assert self.refused(tx, locks, method, reads).keys() == {"reads"}

    @staticmethod
    def refused(tx: Transaction, locks: LockServiceStub, method: str, reads: list[pb.Read]) -> dict[str, str]:
        request = getattr(pb, f"{method}Request")(reads=reads)
        with pytest.raises(InvalidArgument) as refused:
            getattr(locks, method)(request, metadata=tx.metadata(1) if method == "LockReads" else ())
        return violations(refused.value)


def lock_first(
    tx: Transaction, locks: LockServiceStub, *, to_read: Sequence[str] = (), to_change: Sequence[str] = ()
) -> Seen:
    """Locks resources as they are, as the next operation of the transaction."""
    number = tx.counts.get("users", 0) + 1
    seen = staged(tx, number, locks.LockResources, pb.LockResourcesRequest(to_read=to_read, to_change=to_change))
    tx.counts["users"] = number
    return seen


class TestLockResources:
    def test_what_is_about_to_be_read_stays_as_it_is_until_the_decision(
        self, client: Suite, tx: Transaction, ada: User, locks: LockServiceStub
    ) -> None:
        locked = lock_first(tx, locks, to_read=[name_of(ada)])
        lock_first(other := Transaction(client), locks, to_read=[name_of(ada)])  # which keeps nobody from reading
        with pytest.raises(Aborted) as refused:
            client.users.UpdateUser(rename(ada.user_id, "Countess"))
        assert refused.value.reason == "PENDING_CHANGE"
        seen = read(tx, client.users.GetUser, get(ada))
        assert (seen.reply.user, seen.revisions) == (ada, locked.revisions)
        assert locked.reads[name_of(ada)][1], "is held"
        tx.commit()
        other.rollback()
        assert eventually(lambda: client.users.UpdateUser(rename(ada.user_id, "Countess")))

    def test_what_is_about_to_be_changed_nobody_else_locks(
        self, client: Suite, tx: Transaction, ada: User, locks: LockServiceStub
    ) -> None:
        lock_first(tx, locks, to_change=[name_of(ada)])
        for younger in ({"to_read": [name_of(ada)]}, {"to_change": [name_of(ada)]}):
            with pytest.raises(Aborted) as refused:
                lock_first(Transaction(client), locks, **younger)
            assert (refused.value.reason, refused.value.metadata["resource"]) == ("PENDING_CHANGE", name_of(ada))
        assert read(tx, client.users.GetUser, get(ada)).reply.user == ada
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "Countess"))
        tx.commit()
        assert client.users.GetUser(get(ada)).user.display_name == "Countess"

    def test_what_is_not_changed_after_all_is_as_before(
        self, client: Suite, tx: Transaction, ada: User, locks: LockServiceStub
    ) -> None:
        nobody = new_id()
        lock_first(tx, locks, to_change=[name_of(ada), f"users/{nobody}"])
        tx.commit()
        assert client.users.GetUser(get(ada)).user == ada
        with pytest.raises(NotFound):
            client.users.GetUser(GetUserRequest(user_id=nobody))
        assert eventually(lambda: client.users.UpdateUser(rename(ada.user_id, "Countess")))

    def test_what_does_not_exist_can_be_locked_and_then_created(
        self, client: Suite, tx: Transaction, locks: LockServiceStub
    ) -> None:
        key, email = new_id(), new_email()
        assert lock_first(tx, locks, to_change=[f"users/{key}"]).revisions == {f"users/{key}": "-"}
        creation = CreateUserRequest(user=User(user_id=key, email=email))
        with pytest.raises(Aborted):
            client.users.CreateUser(creation)
        with pytest.raises(NotFound):
            read(tx, client.users.GetUser, GetUserRequest(user_id=key))
        tx.stage("users", client.users.CreateUser, creation)
        tx.commit()
        assert client.users.GetUser(GetUserRequest(user_id=key)).user.email == email

    def test_only_a_transaction_locks(self, ada: User, locks: LockServiceStub) -> None:
        with pytest.raises(InvalidArgument) as refused:
            locks.LockResources(pb.LockResourcesRequest(to_read=[name_of(ada)]))
        assert refused.value.reason == "INVALID_METADATA"

    def test_what_is_named_has_to_be_of_the_service_and_named_once(
        self, tx: Transaction, locks: LockServiceStub
    ) -> None:
        must = "must be <kind>/<key>, with a kind of this service: users"
        for request, rules in (
            ({}, {"to_read": "must have 1 to 1000 entries together with to_change, not 0"}),
            (
                {"to_read": ["users/a"], "to_change": ["users/a"]},
                {"to_read": "must name each only once, and none that to_change names"},
            ),
            (
                {"to_read": ["ada"], "to_change": ["users/a", "preferences/a"]},
                {"to_read[0]": must, "to_change[1]": must},
            ),
        ):
            with pytest.raises(InvalidArgument) as refused:
                lock_first(tx, locks, **request)
            assert violations(refused.value) == rules


class TestCompareReads:
    def test_names_what_has_changed_in_the_order_of_the_request(
        self, client: Suite, tx: Transaction, locks: LockServiceStub
    ) -> None:
        users = [create_user(client) for _ in range(4)]
        nobody = new_id()
        ids = [*(user.user_id for user in users), nobody]
        seen = read(tx, client.users.BatchGetUsers, BatchGetUsersRequest(user_ids=ids))

        def changed() -> list[str]:
            reads = [pb.Read(resource=f"users/{each}", revision=seen.revisions[f"users/{each}"]) for each in ids]
            return list(locks.CompareReads(pb.CompareReadsRequest(reads=reads)).changed)

        assert changed() == []
        client.users.UpdateUser(rename(ids[2], "other"))
        client.users.DeleteUser(DeleteUserRequest(user_id=ids[1]))
        other = Transaction(client)
        other.stage("users", client.users.UpdateUser, rename(ids[0], "other"))
        assert changed() == [f"users/{ids[1]}", f"users/{ids[2]}"]
        other.commit()
        assert changed() == [f"users/{ids[0]}", f"users/{ids[1]}", f"users/{ids[2]}"]
