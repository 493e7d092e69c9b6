"""Staged calls on real servers: what readers and other writers see before and after the decision."""

from __future__ import annotations

from uuid import UUID

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Value

from handfast.client import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Suite,
    transaction_metadata,
)
from handfast.preferences.v1.preferences_pb2 import (
    CreatePreferenceDefinitionRequest,
    GetPreferencesRequest,
    Preferences,
    UpdatePreferencesRequest,
)
from handfast.server.chassis import clock, ids
from handfast.server.transactions import wire
from handfast.transactions.v1 import transactions_pb2 as pb
from handfast.users.v1.users_pb2 import (
    BatchGetUsersRequest,
    CreateUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    LookupUserRequest,
    UpdateUserRequest,
    User,
)
from tests.eventually import eventually
from tests.people import create_user, new_email, new_id
from tests.transactions.calls import Transaction, commit_unasked


def get(client: Suite, user_id: str) -> User:
    return client.users.GetUser(GetUserRequest(user_id=user_id)).user


def rename(user_id: str, name: str, etag: str = "") -> UpdateUserRequest:
    return UpdateUserRequest(
        user=User(user_id=user_id, display_name=name, etag=etag), update_mask=FieldMask(paths=["display_name"])
    )


def set_email(user_id: str, email: str) -> UpdateUserRequest:
    return UpdateUserRequest(user=User(user_id=user_id, email=email), update_mask=FieldMask(paths=["email"]))


def set_theme(user_id: str, theme: str) -> UpdatePreferencesRequest:
    values = {"theme": Value(string_value=theme)}
    return UpdatePreferencesRequest(preferences=Preferences(user_id=user_id, values=values))


def theme(client: Suite, user_id: str) -> str:
    preferences = client.preferences.GetPreferences(GetPreferencesRequest(user_id=user_id)).preferences
    return preferences.values["theme"].string_value if "theme" in preferences.values else ""


class TestReaders:
    def test_see_nothing_of_a_staged_change_until_it_is_committed_and_all_of_it_from_then_on(
        self, client: Suite
    ) -> None:
        ada = create_user(client, display_name="Ada")
        tx = Transaction(client)
        staged = tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "Countess")).user
        tx.stage("preferences", client.preferences.UpdatePreferences, set_theme(ada.user_id, "dark"))

        assert staged.display_name == "Countess"
        assert get(client, ada.user_id) == ada
        assert theme(client, ada.user_id) == ""

        assert tx.commit().state == pb.TRANSACTION_STATE_COMMITTED
        assert get(client, ada.user_id) == staged
        assert theme(client, ada.user_id) == "dark"

    def test_see_nothing_of_a_change_that_is_rolled_back(self, client: Suite) -> None:
        ada = create_user(client, display_name="Ada")
        tx = Transaction(client)
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "Countess"))
        assert tx.rollback().state == pb.TRANSACTION_STATE_ABORTED
        assert get(client, ada.user_id) == ada

    def test_see_a_user_that_is_being_created_only_once_it_is_committed(self, client: Suite) -> None:
        user_id, email = new_id(), new_email()
        tx = Transaction(client)
        request = CreateUserRequest(user=User(user_id=user_id, email=email))
        tx.stage("users", client.users.CreateUser, request)
        with pytest.raises(NotFound):
            get(client, user_id)
        with pytest.raises(NotFound):
            client.users.LookupUser(LookupUserRequest(email=email))
        assert client.users.BatchGetUsers(BatchGetUsersRequest(user_ids=[user_id])).missing_user_ids == [user_id]
        tx.commit()
        assert get(client, user_id).email == email
        assert client.users.LookupUser(LookupUserRequest(email=email)).user.user_id == user_id

    def test_see_a_user_that_is_being_deleted_until_that_is_committed(self, client: Suite) -> None:
        ada = create_user(client)
        tx = Transaction(client)
        deleted = tx.stage("users", client.users.DeleteUser, DeleteUserRequest(user_id=ada.user_id)).user
        assert deleted == ada
        assert get(client, ada.user_id) == ada
        tx.commit()
        with pytest.raises(NotFound):
            get(client, ada.user_id)

    def test_see_which_transaction_changed_a_user_last(self, client: Suite) -> None:
        ada = create_user(client)
        assert client.users.GetUser(GetUserRequest(user_id=ada.user_id)).last_transaction_id == ""
        tx = Transaction(client)
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "Countess"))
        tx.commit()
        client.users.UpdateUser(rename(ada.user_id, "Ada"))
        assert client.users.GetUser(GetUserRequest(user_id=ada.user_id)).last_transaction_id == tx.id


class TestOperations:
    def test_build_upon_the_earlier_ones_of_their_transaction(self, client: Suite) -> None:
        ada = create_user(client, display_name="Ada", locale="en")
        tx = Transaction(client)
        first = tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "Countess")).user
        locale = UpdateUserRequest(user=User(user_id=ada.user_id, locale="fr", etag=first.etag))
        second = tx.stage("users", client.users.UpdateUser, locale).user
        tx.commit()
        assert (second.display_name, second.locale) == ("Countess", "fr")
        assert get(client, ada.user_id) == second

    def test_beyond_those_that_the_commit_names_are_dropped(self, client: Suite) -> None:
        ada, bob = create_user(client, display_name="Ada"), create_user(client, display_name="Bob")
        tx = Transaction(client)
        first = tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "one")).user
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "two"))
        tx.stage("users", client.users.UpdateUser, rename(bob.user_id, "three"))
        tx.commit(users=1)
        assert get(client, ada.user_id) == first
        assert get(client, bob.user_id) == bob

    def test_repeated_are_answered_as_the_first_time(self, client: Suite) -> None:
        tx = Transaction(client)
        request = CreateUserRequest(user=User(email=new_email()))
        first = tx.stage("users", client.users.CreateUser, request)
        again = client.users.CreateUser(request, metadata=tx.metadata(1))
        assert again == first

    def test_repeated_with_another_content_are_refused(self, client: Suite) -> None:
        ada = create_user(client)
        tx = Transaction(client)
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "one"))
        with pytest.raises(FailedPrecondition) as refused:
            client.users.UpdateUser(rename(ada.user_id, "two"), metadata=tx.metadata(1))
        assert refused.value.reason == "OPERATION_CHANGED"

    def test_out_of_order_are_refused(self, client: Suite) -> None:
        tx = Transaction(client)
        with pytest.raises(FailedPrecondition) as refused:
            client.users.UpdateUser(rename(create_user(client).user_id, "two"), metadata=tx.metadata(2))
        assert (refused.value.service, refused.value.reason) == ("handfast.users", "OPERATION_OUT_OF_ORDER")

    def test_after_the_decision_are_refused(self, client: Suite) -> None:
        ada = create_user(client)
        tx = Transaction(client)
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "one"))
        tx.commit()
        client.users.UpdateUser(rename(ada.user_id, "plain"))  # a plain write finishes the branch
        with pytest.raises(FailedPrecondition) as refused:
            client.users.UpdateUser(rename(ada.user_id, "late"), metadata=tx.metadata(2))
        assert refused.value.reason == "BRANCH_NOT_OPEN"

    def test_that_are_refused_leave_the_branch_as_it_was(self, client: Suite) -> None:
        ada = create_user(client)
        tx = Transaction(client)
        with pytest.raises(Aborted):
            client.users.UpdateUser(rename(ada.user_id, "one", etag="stale"), metadata=tx.metadata(1))
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "two"))
        tx.commit()
        assert get(client, ada.user_id).display_name == "two"

    def test_refuse_a_request_id_since_their_number_is_their_identity(self, client: Suite) -> None:
        request = rename(create_user(client).user_id, "one")
        request.request_id = new_id()
        with pytest.raises(InvalidArgument) as refused:
            client.users.UpdateUser(request, metadata=Transaction(client).metadata(1))
        assert [violation.field for violation in refused.value.violations] == ["request_id"]

    def test_are_refused_by_methods_that_do_not_take_part(self, client: Suite) -> None:
        with pytest.raises(FailedPrecondition) as refused:
            client.preferences.CreatePreferenceDefinition(
                CreatePreferenceDefinitionRequest(), metadata=Transaction(client).metadata(1)
            )
        assert refused.value.reason == "NOT_STAGEABLE"

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("handfast-transaction-id", "not-a-uuid"),
            ("handfast-transaction-id", "123e4567-e89b-12d3-a456-426614174000"),
            ("handfast-operation", "0"),
            ("handfast-operation", "one"),
            ("handfast-transaction-deadline", "tomorrow"),
            ("handfast-transaction-deadline", "2026-01-01T00:00:00"),
            ("handfast-follows", "the one before"),
        ],
    )
    def test_with_malformed_metadata_are_refused_by_its_key(self, client: Suite, key: str, value: str) -> None:
        metadata = {**dict(Transaction(client).metadata(1)), key: value}
        with pytest.raises(InvalidArgument) as refused:
            client.users.UpdateUser(rename("ada", "one"), metadata=tuple(metadata.items()))
        assert (refused.value.reason, refused.value.metadata) == ("INVALID_METADATA", {"key": key})

    @pytest.mark.parametrize(
        "key",
        [
            transaction_metadata.TRANSACTION_ID,
            transaction_metadata.OPERATION,
            transaction_metadata.DEADLINE,
            transaction_metadata.FIRST_ATTEMPT,
            transaction_metadata.FOLLOWS,
        ],
    )
    def test_with_metadata_that_comes_twice_are_refused_by_its_key(self, client: Suite, key: str) -> None:
        ada = create_user(client, display_name="Ada")
        follows, follows_another = ((transaction_metadata.FOLLOWS, Transaction(client).id) for _ in range(2))
        once = (*Transaction(client).metadata(1), follows)
        other = dict((*Transaction(client).metadata(2), follows_another))
        for repeated in ((key, other[key]), (key, dict(once)[key])):
            with pytest.raises(InvalidArgument) as refused:
                client.users.UpdateUser(rename(ada.user_id, "one"), metadata=(*once, repeated))
            assert (refused.value.reason, refused.value.metadata) == ("INVALID_METADATA", {"key": key})
        assert get(client, ada.user_id) == ada

    def test_are_no_plain_calls_where_only_the_first_attempt_is_named(self, client: Suite) -> None:
        ada = create_user(client, display_name="Ada")
        with pytest.raises(InvalidArgument) as refused:
            client.users.UpdateUser(
                rename(ada.user_id, "one"), metadata=((transaction_metadata.FIRST_ATTEMPT, Transaction(client).id),)
            )
        assert refused.value.metadata == {"key": transaction_metadata.TRANSACTION_ID}
        assert get(client, ada.user_id) == ada

    @pytest.mark.parametrize(
        "missing", [transaction_metadata.TRANSACTION_ID, transaction_metadata.OPERATION, transaction_metadata.DEADLINE]
    )
    def test_with_part_of_the_metadata_only_are_refused_rather_than_applied(self, client: Suite, missing: str) -> None:
        ada = create_user(client, display_name="Ada")
        metadata = tuple((key, value) for key, value in Transaction(client).metadata(1) if key != missing)
        with pytest.raises(InvalidArgument):
            client.users.UpdateUser(rename(ada.user_id, "one"), metadata=metadata)
        assert get(client, ada.user_id) == ada

    def test_of_a_transaction_from_the_future_are_refused(self, client: Suite) -> None:
        far = UUID(int=UUID(ids.new_id()).int + (60_000 << 80))
        metadata = wire.stage_metadata(str(far), 1, clock.now() + clock.MICROSECONDS_PER_SECOND)
        with pytest.raises(InvalidArgument) as refused:
            client.users.UpdateUser(rename(create_user(client).user_id, "one"), metadata=metadata)
        assert refused.value.reason == "TRANSACTION_FROM_FUTURE"

    def test_with_a_deadline_that_no_transaction_may_have_are_refused(self, client: Suite) -> None:
        deadline = clock.now() + 2 * wire.MAX_TIMEOUT_US
        metadata = wire.stage_metadata(Transaction(client).id, 1, deadline)
        with pytest.raises(InvalidArgument) as refused:
            client.users.UpdateUser(rename(create_user(client).user_id, "one"), metadata=metadata)
        assert refused.value.metadata == {"key": transaction_metadata.DEADLINE}


class TestOtherWriters:
    def test_are_told_loudly_when_more_was_committed_than_was_staged(
        self, client: Suite, transactions_database_url: str
    ) -> None:
        ada = create_user(client)
        tx = Transaction(client)
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "one"))
        commit_unasked(transactions_database_url, tx.id, users=2)
        with pytest.raises(FailedPrecondition) as refused:
            client.users.UpdateUser(rename(ada.user_id, "two"))
        assert (refused.value.reason, refused.value.retryable) == ("COMMITTED_CHANGE_LOST", False)

    def test_are_told_to_come_again_while_a_change_is_undecided(self, client: Suite) -> None:
        ada = create_user(client)
        tx = Transaction(client)
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "one"))
        for metadata in ((), Transaction(client).metadata(1)):
            with pytest.raises(Aborted) as refused:
                client.users.UpdateUser(rename(ada.user_id, "two"), metadata=metadata)
            assert refused.value.reason == "PENDING_CHANGE"
            assert refused.value.retryable
            assert refused.value.metadata == {"resource": f"users/{ada.user_id}", "transaction_id": tx.id}
        tx.rollback()

    @pytest.mark.parametrize("decide", [Transaction.commit, Transaction.rollback])
    def test_go_on_at_once_when_it_is_decided(self, client: Suite, decide: object) -> None:
        ada = create_user(client)
        tx = Transaction(client)
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "one"))
        assert callable(decide)
        decide(tx)
        assert client.users.UpdateUser(rename(ada.user_id, "two")).user.display_name == "two"

    def test_go_on_when_its_time_is_up_and_it_can_never_commit_after_that(self, client: Suite) -> None:
        ada = create_user(client)
        tx = Transaction(client, timeout_seconds=4)
        tx.stage("users", client.users.UpdateUser, rename(ada.user_id, "one"))

        def goes_on() -> bool:
            try:
                return bool(client.users.UpdateUser(rename(ada.user_id, "two")))
            except Aborted as error:
                if error.reason != "PENDING_CHANGE":
                    raise
                return False

        assert not goes_on()
        assert eventually(goes_on)
        with pytest.raises(Aborted) as refused:
            tx.commit()
        assert refused.value.reason == "TRANSACTION_ABORTED"
        assert get(client, ada.user_id).display_name == "two"

    def test_keep_their_change_when_the_one_before_it_is_finished_late(self, client: Suite) -> None:
        ada = create_user(client)
        for number in range(20):
            tx = Transaction(client)
            tx.stage("users", client.users.UpdateUser, rename(ada.user_id, f"staged {number}"))
            tx.commit()
            plain = client.users.UpdateUser(rename(ada.user_id, f"plain {number}")).user
            assert get(client, ada.user_id) == plain


class TestEmails:
    def test_are_reserved_while_their_transaction_is_undecided(self, client: Suite) -> None:
        ada, email = create_user(client), new_email()
        tx = Transaction(client)
        tx.stage("users", client.users.UpdateUser, set_email(ada.user_id, email))
        with pytest.raises(Aborted) as refused:
            client.users.CreateUser(CreateUserRequest(user=User(email=email.upper())))
        assert refused.value.reason == "PENDING_CHANGE"
        assert email not in str(refused.value)
        tx.commit()
        with pytest.raises(AlreadyExists) as taken:
            client.users.CreateUser(CreateUserRequest(user=User(email=email)))
        assert taken.value.reason == "EMAIL_TAKEN"

    def test_are_free_again_when_it_is_rolled_back(self, client: Suite) -> None:
        ada, email = create_user(client), new_email()
        tx = Transaction(client)
        tx.stage("users", client.users.UpdateUser, set_email(ada.user_id, email))
        tx.rollback()
        assert create_user(client, email=email).email == email
        assert client.users.LookupUser(LookupUserRequest(email=ada.email)).user == ada

    def test_that_are_given_up_are_free_only_once_that_is_committed(self, client: Suite) -> None:
        ada = create_user(client)
        tx = Transaction(client)
        tx.stage("users", client.users.UpdateUser, set_email(ada.user_id, new_email()))
        with pytest.raises(Aborted):
            create_user(client, email=ada.email)
        tx.commit()
        with pytest.raises(NotFound):
            client.users.LookupUser(LookupUserRequest(email=ada.email))
        assert create_user(client, email=ada.email).email == ada.email

    def test_can_be_swapped_within_one_transaction(self, client: Suite) -> None:
        ada, bob = create_user(client), create_user(client)
        tx = Transaction(client)
        tx.stage("users", client.users.UpdateUser, set_email(ada.user_id, new_email()))
        tx.stage("users", client.users.UpdateUser, set_email(bob.user_id, ada.email))
        tx.stage("users", client.users.UpdateUser, set_email(ada.user_id, bob.email))
        tx.commit()
        for email, holder in ((ada.email, bob), (bob.email, ada)):
            assert client.users.LookupUser(LookupUserRequest(email=email)).user.user_id == holder.user_id

    def test_of_others_are_refused_to_a_staged_write_as_to_a_plain_one(self, client: Suite) -> None:
        ada, bob = create_user(client), create_user(client)
        with pytest.raises(AlreadyExists) as refused:
            client.users.UpdateUser(set_email(ada.user_id, bob.email), metadata=Transaction(client).metadata(1))
        assert refused.value.reason == "EMAIL_TAKEN"
